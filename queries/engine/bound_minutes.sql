-- The minutes in which the sessions of the table `asked` were used with tokens that cover their ids.
SELECT DISTINCT session_id, minute
FROM stored_activity
WHERE bound AND session_id IN (SELECT session_id FROM asked)
