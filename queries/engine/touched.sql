-- The minutes and sessions that have rows of a batch after $after: what detection has to look at again.
-- A null session stands for the refusals that share a row.
SELECT minute, session_id, MAX(batch) AS batch
FROM (
    SELECT minute, session_id, batch FROM stored_activity WHERE batch > $after
    UNION ALL
    SELECT minute, session_id, batch FROM stored_refusals WHERE batch > $after
) AS new_rows
GROUP BY minute, session_id
