-- [detector]
-- description = "One session that goes back and forth between countries"
-- family = "geography"
-- strength = "medium"
-- window = "2h"
-- every = "15m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "a viewer who tries one VPN exit after the other, of several operators that are not known as such"
--
-- [params]
-- # A country counts when so many new segments were fetched from it in the window.
-- min_segments = 30
-- # Countries in the window from which on a session is found ...
-- min_countries = 3
-- # ... if it was watched from one of them both before and after another, so often.
-- min_returns = 2
-- # Strong from so many returns on.
-- strong_returns = 3
--
-- [needs]
-- countries = "min_countries"
--
-- [least]
-- min_countries = 2
-- min_returns = 1
--
-- [thresholds]
-- countries = "min_countries"
-- overlapping_pairs = "min_returns"
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
minutes AS (
    SELECT
        activity.session_id, COALESCE(homes.country, activity.country) AS country, activity.minute,
        SUM(activity.segments) AS segments
    FROM activity
    LEFT JOIN homes ON homes.session_id = activity.session_id AND homes.asn = activity.asn
    -- Where a relay, a VPN or a server comes out says nothing of its users.
    WHERE activity.country IS NOT NULL AND COALESCE(activity.network_type, '') NOT IN ('relay', 'vpn', 'hosting')
    GROUP BY activity.session_id, COALESCE(homes.country, activity.country), activity.minute
    HAVING SUM(activity.segments) >= 2
),
stays AS (
    SELECT session_id, country, MIN(minute) AS first_minute, MAX(minute) AS last_minute, SUM(segments) AS segments
    FROM minutes
    GROUP BY session_id, country
    HAVING SUM(segments) >= $min_segments
),
-- Two countries return to each other when their stays overlap by more than a change of network takes.
pairs AS (
    SELECT one.session_id, COUNT(*) AS overlapping
    FROM stays AS one
    INNER JOIN stays AS other
        ON other.session_id = one.session_id
        AND other.country > one.country
        AND other.first_minute + INTERVAL '5' MINUTE < one.last_minute
        AND one.first_minute + INTERVAL '5' MINUTE < other.last_minute
    GROUP BY one.session_id
),
counted AS (
    SELECT session_id, COUNT(*) AS countries, MIN(country) AS first_country, MAX(country) AS last_country,
        CAST(SUM(segments) AS BIGINT) AS segments
    FROM stays
    GROUP BY session_id
    HAVING COUNT(*) >= $min_countries
)
SELECT
    counted.session_id,
    LEAST(counted.countries * 1.0 / $min_countries, pairs.overlapping * 1.0 / $min_returns) AS score,
    CASE WHEN pairs.overlapping >= $strong_returns THEN 'strong' ELSE 'medium' END AS strength,
    counted.countries,
    pairs.overlapping AS overlapping_pairs,
    counted.first_country,
    counted.last_country,
    counted.segments
FROM counted
INNER JOIN pairs ON pairs.session_id = counted.session_id
WHERE pairs.overlapping >= $min_returns
