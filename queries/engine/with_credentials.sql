-- The sessions in `asked` of which a credential is known.
SELECT DISTINCT session_id
FROM credentials
WHERE session_id IN (SELECT session_id FROM asked)
