-- refusals: the stored partial sums, folded.
SELECT
    minute,
    session_id,
    CAST(SUM(requests) AS BIGINT) AS requests,
    CAST(SUM(networks) AS BIGINT) AS networks
FROM stored_refusals
GROUP BY minute, session_id
