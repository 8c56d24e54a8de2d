-- Rolls the requests of some log objects up to rows of the stored table `activity`.
-- In:  requests, of whole log objects (a very large object comes in parts).
-- Out: the columns of stored_activity without batch. Every measure is a sum, a minimum or a maximum,
--      and a log object contributes the same whatever objects come with it.
WITH fetched AS (
    -- One row per object, minute, key and path, so that a segment counts once within an object.
    SELECT
        object,
        date_trunc('minute', time) AS minute,
        session_id,
        network,
        country,
        asn,
        user_agent,
        referer_host,
        content,
        kind,
        path,
        bound,
        MIN(distribution) AS distribution,
        bool_or(derived) AS derived,
        MIN(ip) AS ip,
        MIN(device) AS device,
        MIN(network_type) AS network_type,
        MIN(latitude) AS latitude,
        MIN(longitude) AS longitude,
        MAX(accuracy_km) AS accuracy_km,
        COUNT(*) AS requests,
        SUM(bytes) AS bytes,
        MIN(time) AS first_seen,
        MAX(time) AS last_seen
    FROM requests
    -- Nothing is watched by other methods, and a preflight (OPTIONS) is answered before any token is looked at.
    WHERE accepted AND session_id IS NOT NULL AND (method IS NULL OR method IN ('GET', 'HEAD'))
    GROUP BY object, date_trunc('minute', time), session_id, network, country, asn, user_agent, referer_host, content, kind, path, bound
)
SELECT
    substr(CAST(date_trunc('hour', minute) AS VARCHAR), 1, 13) AS hour,
    minute,
    session_id,
    network,
    country,
    asn,
    user_agent,
    referer_host,
    content,
    MIN(distribution) AS distribution,
    bound,
    bool_or(derived) AS derived,
    MIN(ip) AS ip,
    MIN(device) AS device,
    MIN(network_type) AS network_type,
    MIN(latitude) AS latitude,
    MIN(longitude) AS longitude,
    MAX(accuracy_km) AS accuracy_km,
    CAST(SUM(requests) AS BIGINT) AS requests,
    CAST(SUM(CASE WHEN kind = 'manifest' THEN requests ELSE 0 END) AS BIGINT) AS manifests,
    CAST(SUM(CASE WHEN kind = 'segment' THEN 1 ELSE 0 END) AS BIGINT) AS segments,
    CAST(SUM(bytes) AS BIGINT) AS bytes,
    MIN(first_seen) AS first_seen,
    MAX(last_seen) AS last_seen
FROM fetched
GROUP BY minute, session_id, network, country, asn, user_agent, referer_host, content, bound
