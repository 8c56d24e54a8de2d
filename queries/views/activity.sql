-- activity: the stored partial sums, folded.
SELECT
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
    CAST(SUM(manifests) AS BIGINT) AS manifests,
    CAST(SUM(segments) AS BIGINT) AS segments,
    CAST(SUM(bytes) AS BIGINT) AS bytes,
    MIN(first_seen) AS first_seen,
    MAX(last_seen) AS last_seen
FROM stored_activity
GROUP BY minute, session_id, network, country, asn, user_agent, referer_host, content, bound
