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
--
-- [least]
-- max_countries = 1
--
-- [thresholds]
-- countries = "max_countries"
WITH watching AS (
    SELECT session_id, country, SUM(segments) AS segments, SUM(requests) AS requests
    FROM activity
    -- Where a relay or a VPN comes out says nothing of its users.
    WHERE country IS NOT NULL AND COALESCE(network_type, '') NOT IN ('relay', 'vpn')
    GROUP BY session_id, country
    HAVING SUM(segments) >= $min_segments
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
