-- Which networks fetched what of the candidates, minute by minute.
SELECT
    session_id,
    network,
    country,
    asn,
    network_type,
    minute,
    CAST(SUM(segments) AS BIGINT) AS segments
FROM activity
WHERE session_id IN (SELECT session_id FROM candidates)
GROUP BY session_id, network, country, asn, network_type, minute
ORDER BY session_id, minute, network
