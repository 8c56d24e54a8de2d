-- Rolls the requests of some log objects up to rows of the stored table `deliveries`.
-- In:  requests, of whole log objects. Only what activity counts.
-- Out: the columns of stored_deliveries without batch, for one segment in eight: whether a segment is among them follows from
--      its name, so that all who fetch it are recorded or none.
SELECT
    substr(CAST(date_trunc('hour', time) AS VARCHAR), 1, 13) AS hour,
    date_trunc('minute', time) AS minute,
    session_id,
    segment,
    network,
    bound,
    MIN(asn) AS asn,
    MIN(network_type) AS network_type,
    COUNT(*) AS requests
FROM requests
WHERE accepted AND session_id IS NOT NULL AND network IS NOT NULL AND (method IS NULL OR method IN ('GET', 'HEAD'))
    AND segment % 8 = 0
GROUP BY substr(CAST(date_trunc('hour', time) AS VARCHAR), 1, 13), date_trunc('minute', time), session_id, segment, network, bound
