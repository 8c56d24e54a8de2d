-- deliveries: the stored partial sums, folded.
SELECT
    minute,
    session_id,
    segment,
    network,
    bound,
    MIN(asn) AS asn,
    MIN(network_type) AS network_type,
    CAST(SUM(requests) AS BIGINT) AS requests
FROM stored_deliveries
GROUP BY minute, session_id, segment, network, bound
