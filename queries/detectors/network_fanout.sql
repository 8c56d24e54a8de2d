-- [detector]
-- description = "One session, many networks of many operators within hours"
-- family = "fanout"
-- strength = "medium"
-- window = "2h"
-- every = "15m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "a day on trains and in cafés; VPN exits that are not known as such"
--
-- [params]
-- # Networks in the window from which on a session is found; a carrier's address pool and all relays are one each ...
-- min_networks = 8
-- # ... if they belong to so many operators.
-- min_operators = 4
-- # A network counts when it fetched so many new segments.
-- min_segments = 5
--
-- [needs]
-- networks = "min_networks"
--
-- [least]
-- min_networks = 2
-- min_operators = 1
--
-- [thresholds]
-- networks = "min_networks"
-- operators = "min_operators"
WITH watching AS (
    SELECT
        session_id,
        network,
        CASE
            WHEN MIN(network_type) = 'relay' THEN 'relay'
            -- A rented machine is a place of its own.
            WHEN MIN(network_type) IN ('hosting', 'vpn') THEN network
            -- An operator in another country is another one.
            ELSE COALESCE(CAST(MIN(asn) AS VARCHAR), 'unknown') || ' ' || COALESCE(MIN(country), '')
        END AS operator,
        MIN(network_type) AS network_type,
        SUM(segments) AS segments
    FROM activity
    WHERE network IS NOT NULL
    GROUP BY session_id, network
    HAVING SUM(segments) >= $min_segments
),
-- Of an operator: a carrier's pool is one network, and so are an IPv4 address and an IPv6 network of one line.
per_operator AS (
    SELECT
        session_id,
        operator,
        CASE
            WHEN MIN(network_type) IN ('mobile', 'relay') THEN 1
            ELSE GREATEST(
                SUM(CASE WHEN network LIKE '%:%' THEN 1 ELSE 0 END),
                SUM(CASE WHEN network LIKE '%:%' THEN 0 ELSE 1 END)
            )
        END AS networks,
        SUM(segments) AS segments
    FROM watching
    GROUP BY session_id, operator
)
SELECT
    session_id,
    LEAST(SUM(networks) * 1.0 / $min_networks, COUNT(*) * 1.0 / $min_operators) AS score,
    CAST(SUM(networks) AS BIGINT) AS networks,
    COUNT(*) AS operators,
    CAST(SUM(segments) AS BIGINT) AS segments
FROM per_operator
GROUP BY session_id
HAVING SUM(networks) >= $min_networks AND COUNT(*) >= $min_operators
