-- Who used the session $session, from where, minute by minute.
SELECT
    network,
    MIN(country) AS country,
    MIN(asn) AS asn,
    MIN(network_type) AS network_type,
    MIN(device) AS device,
    minute,
    CAST(SUM(requests) AS BIGINT) AS requests,
    CAST(SUM(segments) AS BIGINT) AS segments,
    MIN(first_seen) AS first_seen,
    MAX(last_seen) AS last_seen
FROM activity
WHERE session_id = $session
GROUP BY network, minute
ORDER BY minute, network
