-- The batches that hold rows of the candidates.
SELECT DISTINCT session_id, batch
FROM stored_activity
WHERE session_id IN (SELECT session_id FROM candidates)
ORDER BY session_id, batch
