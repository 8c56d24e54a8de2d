-- The user agents that used the session $session, the busiest first.
SELECT
    user_agent,
    COUNT(DISTINCT network) AS networks,
    CAST(SUM(requests) AS BIGINT) AS requests,
    CAST(SUM(segments) AS BIGINT) AS segments,
    MIN(first_seen) AS first_seen,
    MAX(last_seen) AS last_seen
FROM activity
WHERE session_id = $session
GROUP BY user_agent
ORDER BY segments DESC, user_agent
