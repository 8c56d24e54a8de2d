-- The rows of one hour of stored_refusals, folded: one a key, for the whole of its partition.
SELECT
    hour,
    MAX(batch) AS batch,
    minute,
    session_id,
    CAST(SUM(requests) AS BIGINT) AS requests,
    CAST(SUM(networks) AS BIGINT) AS networks
FROM stored_refusals
WHERE hour = $hour
GROUP BY hour, minute, session_id
