-- The batches that hold rows of the candidates, each with the first minute of theirs.
SELECT session_id, batch, MIN(minute) AS first_minute
FROM stored_activity
WHERE session_id IN (SELECT session_id FROM candidates)
GROUP BY session_id, batch
ORDER BY session_id, batch
