-- [detector]
-- description = "One session, many countries"
-- family = "geography"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "a VPN that is switched on and off, private relays, roaming near a border, errors of the GeoIP file"
--
-- [params]
-- # Countries in the window beyond which a session is found.
-- max_countries = 2
-- # Strong beyond so many.
-- strong_countries = 5
-- # A country counts when so many different segments were fetched from it: watching, not probing.
-- min_segments = 3
-- # Servers tell their country only from so many on: one or two may be exits of somebody's VPN.
-- min_servers = 3
--
-- [needs]
-- countries = "max_countries"
--
-- [least]
-- max_countries = 1
--
-- [thresholds]
-- countries = "max_countries"
WITH servers AS (
    SELECT session_id, COUNT(*) AS servers
    FROM (SELECT DISTINCT session_id, network FROM activity WHERE network_type = 'hosting' AND segments > 0) AS networks
    GROUP BY session_id
),
watching AS (
    SELECT activity.session_id, activity.country, SUM(activity.segments) AS segments, SUM(activity.requests) AS requests
    FROM activity
    LEFT JOIN servers ON servers.session_id = activity.session_id
    -- Where a relay or a VPN comes out says nothing of its users.
    WHERE activity.country IS NOT NULL AND COALESCE(activity.network_type, '') NOT IN ('relay', 'vpn')
        AND (COALESCE(activity.network_type, '') <> 'hosting' OR COALESCE(servers.servers, 0) >= $min_servers)
    GROUP BY activity.session_id, activity.country
    HAVING SUM(activity.segments) >= $min_segments
)
SELECT
    session_id,
    COUNT(*) * 1.0 / $max_countries AS score,
    CASE WHEN COUNT(*) > $strong_countries THEN 'strong' ELSE 'medium' END AS strength,
    COUNT(*) AS countries,
    MIN(country) AS first_country,
    MAX(country) AS last_country,
    CAST(SUM(segments) AS BIGINT) AS segments,
    CAST(SUM(requests) AS BIGINT) AS requests
FROM watching
GROUP BY session_id
HAVING COUNT(*) > $max_countries
