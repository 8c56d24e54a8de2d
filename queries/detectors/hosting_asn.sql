-- [detector]
-- description = "One session watched from servers and VPN exits"
-- family = "origin"
-- strength = "weak"
-- window = "1h"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "a viewer behind a VPN or a company's proxy, monitoring probes, advertisement servers"
--
-- [params]
-- # Segments fetched from servers from which on a session is found.
-- min_segments = 50
-- # Medium from so many servers on, of so many operators (one of each country): an exit that changes again and again is nobody's living
-- # room. One operator's exits may be a VPN that gives its users another one now and then, or a company's way to the Internet.
-- medium_networks = 4
-- medium_operators = 3
-- # A server counts among these when it fetched so many new segments.
-- segments_each = 5
--
-- [least]
-- min_segments = 1
-- medium_networks = 1
-- medium_operators = 1
--
-- [thresholds]
-- segments = "min_segments"
WITH servers AS (
    SELECT
        session_id,
        network,
        -- In another country it is another one.
        COALESCE(CAST(MIN(asn) AS VARCHAR), '') || ' ' || COALESCE(MIN(country), '') AS operator,
        MIN(asn) AS asn,
        SUM(segments) AS segments
    FROM activity
    WHERE network_type IN ('hosting', 'vpn')
    GROUP BY session_id, network
),
per_operator AS (
    SELECT
        session_id,
        operator,
        MIN(asn) AS asn,
        COUNT(*) AS servers,
        SUM(CASE WHEN segments >= $segments_each THEN 1 ELSE 0 END) AS busy,
        SUM(segments) AS segments
    FROM servers
    GROUP BY session_id, operator
)
SELECT
    session_id,
    SUM(segments) * 1.0 / $min_segments AS score,
    CASE
        WHEN SUM(busy) >= $medium_networks
            AND SUM(CASE WHEN busy > 0 THEN 1 ELSE 0 END) >= $medium_operators THEN 'medium'
        ELSE 'weak'
    END AS strength,
    CAST(SUM(servers) AS BIGINT) AS servers,
    COUNT(*) AS operators,
    MIN(asn) AS first_asn,
    MAX(asn) AS last_asn,
    CAST(SUM(segments) AS BIGINT) AS segments
FROM per_operator
GROUP BY session_id
HAVING SUM(segments) >= $min_segments
