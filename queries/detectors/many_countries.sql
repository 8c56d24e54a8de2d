-- [detector]
-- description = "One session, many countries"
-- family = "geography"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "roaming near a border, a VPN of exits at several operators that are not known as such, errors of the GeoIP file"
--
-- [params]
-- # Countries in the window beyond which a session is found.
-- max_countries = 2
-- # Strong beyond so many.
-- strong_countries = 5
-- # A country counts when so many different segments were fetched from it: watching, not probing.
-- min_segments = 3
--
-- [needs]
-- countries = "max_countries"
--
-- [least]
-- max_countries = 1
--
-- [thresholds]
-- countries = "max_countries"
WITH places AS (
    SELECT
        session_id, asn, country, SUM(segments) AS segments, SUM(requests) AS requests,
        ROW_NUMBER() OVER (PARTITION BY session_id, asn ORDER BY SUM(segments) DESC, country) AS place
    FROM activity
    -- Where a relay, a VPN or a server comes out says nothing of its users.
    WHERE country IS NOT NULL AND COALESCE(network_type, '') NOT IN ('relay', 'vpn', 'hosting')
    GROUP BY session_id, asn, country
),
-- One operator is in one country, where most was fetched: its pool or its gateways may be listed in several.
homes AS (
    SELECT session_id, asn, country FROM places WHERE place = 1 AND asn IS NOT NULL
),
watching AS (
    SELECT
        places.session_id, COALESCE(homes.country, places.country) AS country,
        SUM(places.segments) AS segments, SUM(places.requests) AS requests
    FROM places
    LEFT JOIN homes ON homes.session_id = places.session_id AND homes.asn = places.asn
    GROUP BY places.session_id, COALESCE(homes.country, places.country)
    HAVING SUM(places.segments) >= $min_segments
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
