-- The minutes of the sessions in `looked_at`, as if they were all new.
SELECT minute, session_id, MAX(batch) AS batch
FROM (
    SELECT minute, session_id, batch FROM stored_activity WHERE session_id IN (SELECT session_id FROM looked_at)
    UNION ALL
    SELECT minute, session_id, batch FROM stored_refusals WHERE session_id IN (SELECT session_id FROM looked_at)
) AS all_rows
GROUP BY minute, session_id
