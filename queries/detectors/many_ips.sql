-- [detector]
-- description = "One session, many networks"
-- family = "fanout"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "carrier address pools that are not known as such, and VPN exits that change with every connection; strong only when the networks belong to several operators"
--
-- [params]
-- # Networks in the window beyond which a session is found. A carrier's address pool counts as one, and so do all relays.
-- max_networks = 8
-- # Strong from so many networks on ...
-- strong_networks = 24
-- # ... if they belong to at least so many operators. Networks whose autonomous system is not known count as one
-- # operator together: without a GeoIP file for them this detector is never strong.
-- strong_operators = 4
-- # Of these networks an operator counts for at most so many: it may be a carrier's pool that is not known as one.
-- strong_per_operator = 6
-- # A network counts when it fetched at least so many different segments: watching, not probing.
-- min_segments = 3
--
-- [needs]
-- networks = "max_networks"
--
-- [least]
-- max_networks = 1
--
-- [thresholds]
-- networks = "max_networks"
WITH watching AS (
    SELECT
        session_id,
        network,
        CASE
            WHEN MIN(network_type) = 'relay' THEN 'relay'
            ELSE COALESCE(CAST(MIN(asn) AS VARCHAR), 'unknown')
        END AS operator,
        MIN(network_type) AS network_type,
        SUM(segments) AS segments,
        SUM(requests) AS requests
    FROM activity
    WHERE network IS NOT NULL
    GROUP BY session_id, network
    HAVING SUM(segments) >= $min_segments
),
-- Grouped twice: several COUNT(DISTINCT) in one SELECT would hold a hash set per session that nothing bounds.
per_operator AS (
    SELECT
        session_id,
        operator,
        CASE WHEN MIN(network_type) IN ('mobile', 'relay') THEN 1 ELSE COUNT(*) END AS networks,
        SUM(segments) AS segments,
        SUM(requests) AS requests
    FROM watching
    GROUP BY session_id, operator
)
SELECT
    session_id,
    SUM(networks) * 1.0 / $max_networks AS score,
    CASE
        WHEN SUM(LEAST(networks, $strong_per_operator)) > $strong_networks AND COUNT(*) >= $strong_operators THEN 'strong'
        ELSE 'medium'
    END AS strength,
    CAST(SUM(networks) AS BIGINT) AS networks,
    COUNT(*) AS operators,
    CAST(SUM(segments) AS BIGINT) AS segments,
    CAST(SUM(requests) AS BIGINT) AS requests
FROM per_operator
GROUP BY session_id
HAVING SUM(networks) > $max_networks
