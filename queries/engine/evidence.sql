-- Who used the sessions that were found in a window, and from where: of each session the five networks, countries, operators,
-- devices and user agents that fetched most, ties by name.
-- In:  activity of the window, of these sessions.
-- Out: a row each, in that order. `different` is how many there are.
WITH parts AS (
    SELECT session_id, 'networks' AS what, network AS value, MIN(country) AS country, MIN(asn) AS asn, MIN(network_type) AS network_type,
        SUM(segments) AS segments, SUM(requests) AS requests, MIN(first_seen) AS first_seen, MAX(last_seen) AS last_seen
    FROM activity
    GROUP BY session_id, network
    UNION ALL
    SELECT session_id, 'countries' AS what, country AS value, CAST(NULL AS VARCHAR) AS country, CAST(NULL AS BIGINT) AS asn, CAST(NULL AS VARCHAR) AS network_type,
        SUM(segments) AS segments, SUM(requests) AS requests, MIN(first_seen) AS first_seen, MAX(last_seen) AS last_seen
    FROM activity
    GROUP BY session_id, country
    UNION ALL
    SELECT session_id, 'operators' AS what, CAST(asn AS VARCHAR) AS value, CAST(NULL AS VARCHAR) AS country, CAST(NULL AS BIGINT) AS asn, MIN(network_type) AS network_type,
        SUM(segments) AS segments, SUM(requests) AS requests, MIN(first_seen) AS first_seen, MAX(last_seen) AS last_seen
    FROM activity
    GROUP BY session_id, asn
    UNION ALL
    SELECT session_id, 'user_agents' AS what, user_agent AS value, CAST(NULL AS VARCHAR) AS country, CAST(NULL AS BIGINT) AS asn, CAST(NULL AS VARCHAR) AS network_type,
        SUM(segments) AS segments, SUM(requests) AS requests, MIN(first_seen) AS first_seen, MAX(last_seen) AS last_seen
    FROM activity
    GROUP BY session_id, user_agent
    UNION ALL
    SELECT session_id, 'devices' AS what, device AS value, CAST(NULL AS VARCHAR) AS country, CAST(NULL AS BIGINT) AS asn, CAST(NULL AS VARCHAR) AS network_type,
        SUM(segments) AS segments, SUM(requests) AS requests, MIN(first_seen) AS first_seen, MAX(last_seen) AS last_seen
    FROM activity
    GROUP BY session_id, device
),
ranked AS (
    SELECT
        *,
        ROW_NUMBER() OVER (PARTITION BY session_id, what ORDER BY segments DESC, requests DESC, value) AS place,
        COUNT(*) OVER (PARTITION BY session_id, what) AS different
    FROM parts
    WHERE value IS NOT NULL
)
SELECT
    session_id, what, value, country, asn, network_type,
    CAST(segments AS BIGINT) AS segments, CAST(requests AS BIGINT) AS requests, first_seen, last_seen, different
FROM ranked
WHERE place <= 5
ORDER BY session_id, what, place
