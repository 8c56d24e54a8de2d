-- The rows of a stored table that are the candidates'.
SELECT *
FROM uncut
WHERE session_id IN (SELECT session_id FROM candidates)
