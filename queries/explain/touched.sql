-- The minutes of the session $session, as if they were all new.
SELECT minute, session_id, MAX(batch) AS batch
FROM (
    SELECT minute, session_id, batch FROM stored_activity WHERE session_id = $session
    UNION ALL
    SELECT minute, session_id, batch FROM stored_refusals WHERE session_id = $session
) AS all_rows
GROUP BY minute, session_id
