-- [detector]
-- description = "One session that is far apart faster than anybody travels, again and again"
-- family = "geography"
-- strength = "medium"
-- window = "2h"
-- every = "15m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "a company that spreads its connections over exits of three providers, far apart; three lines of one viewer (an IPv6 tunnel, a phone whose carrier is not known as one) that the GeoIP file puts far apart"
--
-- [params]
-- # What is nearer together may be one place: GeoIP files are wrong by hundreds of kilometres, beyond what they admit.
-- min_km = 400
-- # Nobody travels faster. Airliners do 900 km/h.
-- max_kmh = 1000
-- # A session is found from so many jumps on ...
-- min_jumps = 4
-- # ... between the lines of so many operators: one viewer has a line, a phone, perhaps a VPN.
-- min_operators = 3
--
-- [needs]
-- networks = 2
-- operators = "min_operators"
--
-- [least]
-- min_km = 1
-- max_kmh = 1
-- min_jumps = 1
-- min_operators = 2
--
-- [thresholds]
-- jumps = "min_jumps"
-- operators = "min_operators"
-- # Only where the GeoIP file has coordinates and says how exact they are (without that, a place may be the middle of a
-- # country), and where operators are known. Carriers, relays, VPNs and servers are nowhere.
WITH sightings AS (
    SELECT
        session_id,
        asn,
        network,
        minute,
        MIN(latitude) AS latitude,
        MIN(longitude) AS longitude,
        MAX(accuracy_km) AS accuracy_km,
        EXTRACT(EPOCH FROM MIN(first_seen)) AS first_seen,
        EXTRACT(EPOCH FROM MAX(last_seen)) AS last_seen
    FROM activity
    WHERE segments > 0 AND latitude IS NOT NULL AND longitude IS NOT NULL AND accuracy_km IS NOT NULL AND asn IS NOT NULL AND network_type IS NULL
    GROUP BY session_id, asn, network, minute
),
steps AS (
    SELECT
        session_id,
        asn,
        latitude,
        longitude,
        accuracy_km,
        first_seen,
        LAG(asn) OVER (PARTITION BY session_id ORDER BY first_seen, network, minute) AS from_asn,
        LAG(latitude) OVER (PARTITION BY session_id ORDER BY first_seen, network, minute) AS from_latitude,
        LAG(longitude) OVER (PARTITION BY session_id ORDER BY first_seen, network, minute) AS from_longitude,
        LAG(accuracy_km) OVER (PARTITION BY session_id ORDER BY first_seen, network, minute) AS from_accuracy_km,
        LAG(last_seen) OVER (PARTITION BY session_id ORDER BY first_seen, network, minute) AS left_at
    FROM sightings
),
-- One operator is one place: which of its exits a line has, and where that is, changes from address to address.
moves AS (
    SELECT
        session_id,
        asn,
        -- On the sphere, by the haversine formula; half a minute between two sights, at least.
        2 * 6371 * ASIN(SQRT(LEAST(1.0,
            POWER(SIN(RADIANS(latitude - from_latitude) / 2), 2)
            + COS(RADIANS(latitude)) * COS(RADIANS(from_latitude)) * POWER(SIN(RADIANS(longitude - from_longitude) / 2), 2)
        ))) - accuracy_km - from_accuracy_km AS km,
        GREATEST(first_seen - left_at, 30) / 3600.0 AS hours
    FROM steps
    WHERE from_asn <> asn
),
jumps AS (
    SELECT
        session_id,
        COUNT(*) AS jumps,
        COUNT(DISTINCT asn) AS operators,
        MAX(km) AS longest_km
    FROM moves
    WHERE km >= $min_km AND km / hours >= $max_kmh
    GROUP BY session_id
)
SELECT
    session_id,
    LEAST(jumps * 1.0 / $min_jumps, operators * 1.0 / $min_operators) AS score,
    jumps,
    operators,
    CAST(ROUND(longest_km) AS BIGINT) AS longest_km
FROM jumps
WHERE jumps >= $min_jumps AND operators >= $min_operators
