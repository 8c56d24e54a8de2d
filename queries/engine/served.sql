-- Sessions that were served after they were blocked (table enforced), by the rows that came after the batch $batch.
SELECT
    enforced.session_id,
    enforced.applied_at,
    MAX(stored_activity.last_seen) AS last_accepted
FROM stored_activity
JOIN enforced ON enforced.session_id = stored_activity.session_id
WHERE stored_activity.batch > $batch
    AND enforced.mode = 'enforce'
    AND stored_activity.last_seen > enforced.applied_at + INTERVAL '5 minutes'
GROUP BY enforced.session_id, enforced.applied_at
ORDER BY enforced.session_id
