-- [detector]
-- description = "One session, the same segments delivered to several networks"
-- family = "multiplicity"
-- strength = "medium"
-- window = "10m"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "a viewer who watches a scene again and again while his connection changes; on three connections at once, a player that fetches pictures, sound and text of the same names from folders of which nobody can tell that"
--
-- [params]
-- # A segment counts when so many networks fetched it within three minutes. A viewer fetches a segment once, whatever his
-- # address; two fetch it where a phone casts or a connection breaks off; who skips back comes later.
-- min_networks = 3
-- # Found from so many such segments on, of the one in eight that are recorded.
-- min_segments = 4
-- # A carrier's pool, relays and VPNs are one network. Medium where so many of their addresses fetched it: one viewer fetches pictures, sound
-- # and text, and perhaps again what broke off.
-- min_pool_networks = 8
-- # Strong where they went to so many operators.
-- strong_operators = 2
--
-- [needs]
-- networks = "min_networks"
--
-- [least]
-- min_networks = 2
-- min_pool_networks = 2
-- min_segments = 1
--
-- [thresholds]
-- shared_segments = "min_segments"
WITH fetched AS (
    SELECT
        session_id,
        segment,
        FLOOR(EXTRACT(EPOCH FROM minute) / 180) AS three_minutes,
        network,
        CASE
            WHEN MIN(network_type) IN ('relay', 'vpn') THEN 'anonymous'
            ELSE COALESCE(CAST(MIN(asn) AS VARCHAR), 'unknown')
        END AS operator,
        MIN(network_type) AS network_type
    FROM deliveries
    WHERE network IS NOT NULL
    GROUP BY session_id, segment, FLOOR(EXTRACT(EPOCH FROM minute) / 180), network
),
-- Of an operator: a carrier's pool is one network, and so are an IPv4 address and an IPv6 network of one line.
per_operator AS (
    SELECT
        session_id,
        segment,
        three_minutes,
        operator,
        CASE
            WHEN operator = 'anonymous' OR MIN(network_type) = 'mobile' THEN 1
            ELSE GREATEST(
                SUM(CASE WHEN network LIKE '%:%' THEN 1 ELSE 0 END),
                SUM(CASE WHEN network LIKE '%:%' THEN 0 ELSE 1 END)
            )
        END AS networks,
        CASE WHEN operator = 'anonymous' OR MIN(network_type) = 'mobile' THEN COUNT(*) ELSE 0 END AS pool_networks
    FROM fetched
    GROUP BY session_id, segment, three_minutes, operator
),
together AS (
    SELECT session_id, segment, SUM(networks) AS networks, COUNT(*) AS operators, MAX(pool_networks) AS pool_networks
    FROM per_operator
    GROUP BY session_id, segment, three_minutes
    HAVING SUM(networks) >= $min_networks OR MAX(pool_networks) >= $min_pool_networks
),
-- However often one is fetched, it is one segment.
shared AS (
    SELECT
        session_id, segment, MAX(networks) AS networks, MAX(pool_networks) AS pool_networks,
        MAX(CASE WHEN networks >= $min_networks THEN operators ELSE 1 END) AS operators
    FROM together
    GROUP BY session_id, segment
)
SELECT
    session_id,
    COUNT(*) * 1.0 / $min_segments AS score,
    CASE
        WHEN SUM(CASE WHEN operators >= $strong_operators THEN 1 ELSE 0 END) >= $min_segments THEN 'strong'
        ELSE 'medium'
    END AS strength,
    COUNT(*) AS shared_segments,
    CAST(GREATEST(MAX(networks), MAX(pool_networks)) AS BIGINT) AS most_networks,
    MAX(operators) AS most_operators
FROM shared
GROUP BY session_id
HAVING COUNT(*) >= $min_segments
