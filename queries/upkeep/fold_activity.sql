-- The rows of one hour of stored_activity, folded: one a key, for the whole of its partition.
SELECT
    hour,
    MAX(batch) AS batch,
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
    CAST(SUM(requests) AS BIGINT) AS requests,
    CAST(SUM(manifests) AS BIGINT) AS manifests,
    CAST(SUM(segments) AS BIGINT) AS segments,
    CAST(SUM(bytes) AS BIGINT) AS bytes,
    MIN(first_seen) AS first_seen,
    MAX(last_seen) AS last_seen
FROM stored_activity
WHERE hour = $hour
GROUP BY hour, minute, session_id, network, country, asn, user_agent, referer_host, content, bound
