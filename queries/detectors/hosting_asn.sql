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
-- # Medium from so many servers on: an exit that changes again and again is nobody's living room.
-- medium_networks = 4
-- # A server counts among these when it fetched so many new segments.
-- segments_each = 5
--
-- [least]
-- min_segments = 1
-- medium_networks = 1
--
-- [thresholds]
-- segments = "min_segments"
WITH servers AS (
    SELECT session_id, network, SUM(segments) AS segments, MIN(network_type) AS network_type, MIN(asn) AS asn
    FROM activity
    WHERE network_type IN ('hosting', 'vpn')
    GROUP BY session_id, network
)
SELECT
    session_id,
    SUM(segments) * 1.0 / $min_segments AS score,
    CASE
        WHEN SUM(CASE WHEN segments >= $segments_each THEN 1 ELSE 0 END) >= $medium_networks THEN 'medium'
        ELSE 'weak'
    END AS strength,
    COUNT(*) AS servers,
    MIN(asn) AS first_asn,
    MAX(asn) AS last_asn,
    CAST(SUM(segments) AS BIGINT) AS segments
FROM servers
GROUP BY session_id
HAVING SUM(segments) >= $min_segments
