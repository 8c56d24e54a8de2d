-- [detector]
-- description = "One session watched in several countries in the same minutes"
-- family = "geography"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "all"
-- false_positives = "one viewer through a VPN that is not known as one, who also skips through the stream; errors of the GeoIP file"
--
-- [params]
-- # A country counts in a minute when so many new segments were fetched from it.
-- min_segments = 2
-- # A minute counts from so many streams on: the lesser of its countries and of its segments over the pace of one viewer.
-- min_streams = 1.6
-- # Found from so many such minutes on.
-- min_minutes = 8
-- # Strong from so many streams, so in so many countries, on ...
-- strong_streams = 2.3
-- # ... in so many minutes.
-- strong_minutes = 5
--
-- [needs]
-- countries = { several = 2, in_minutes = ["min_minutes", "strong_minutes"] }
--
-- [least]
-- min_minutes = 1
-- strong_minutes = 1
--
-- [thresholds]
-- minutes = "min_minutes"
-- full_minutes = "strong_minutes"
WITH places AS (
    SELECT
        session_id, asn, country,
        ROW_NUMBER() OVER (PARTITION BY session_id, asn ORDER BY SUM(segments) DESC, country) AS place
    FROM activity
    WHERE country IS NOT NULL AND asn IS NOT NULL
    GROUP BY session_id, asn, country
),
-- One operator is in one country, where most was fetched: its pool or its gateways may be listed in several.
homes AS (
    SELECT session_id, asn, country FROM places WHERE place = 1
),
countries AS (
    SELECT
        activity.session_id, activity.minute, COALESCE(homes.country, activity.country) AS country,
        SUM(activity.segments) AS segments
    FROM activity
    LEFT JOIN homes ON homes.session_id = activity.session_id AND homes.asn = activity.asn
    -- Where a relay or a VPN comes out says nothing of its users.
    WHERE activity.country IS NOT NULL AND COALESCE(activity.network_type, '') NOT IN ('relay', 'vpn') AND activity.segments > 0
    GROUP BY activity.session_id, activity.minute, COALESCE(homes.country, activity.country)
    HAVING SUM(activity.segments) >= $min_segments
),
minutes AS (
    SELECT
        session_id, minute, COUNT(*) AS countries, SUM(segments) AS segments,
        MIN(country) AS first_country, MAX(country) AS last_country
    FROM countries
    GROUP BY session_id, minute
    HAVING COUNT(*) >= 2
),
streams AS (
    SELECT
        minutes.session_id, minutes.countries, minutes.first_country, minutes.last_country,
        LEAST(minutes.countries, minutes.segments / pace.segments_per_minute) AS streams
    FROM minutes
    INNER JOIN pace ON pace.session_id = minutes.session_id
)
SELECT
    session_id,
    GREATEST(
        COUNT(*) * 1.0 / $min_minutes,
        SUM(CASE WHEN streams >= $strong_streams THEN 1 ELSE 0 END) * 1.0 / $strong_minutes
    ) AS score,
    CASE
        WHEN SUM(CASE WHEN streams >= $strong_streams THEN 1 ELSE 0 END) >= $strong_minutes THEN 'strong'
        ELSE 'medium'
    END AS strength,
    COUNT(*) AS minutes,
    CAST(SUM(CASE WHEN streams >= $strong_streams THEN 1 ELSE 0 END) AS BIGINT) AS full_minutes,
    MAX(countries) AS most_countries,
    MAX(streams) AS most_streams,
    MIN(first_country) AS first_country,
    MAX(last_country) AS last_country
FROM streams
WHERE streams >= $min_streams
GROUP BY session_id
HAVING COUNT(*) >= $min_minutes
    OR SUM(CASE WHEN streams >= $strong_streams THEN 1 ELSE 0 END) >= $strong_minutes
