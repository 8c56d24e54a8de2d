-- [detector]
-- description = "One session, many networks"
-- family = "fanout"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "two address pools that are not known as such, of a phone with two carriers"
--
-- [params]
-- # Networks in the window beyond which a session is found. A carrier's address pool counts as one, and so do all relays.
-- max_networks = 8
-- # Of these networks an operator counts for at most so many, and servers and VPN exits together do: it may be a pool that is not known
-- # as one. What is found otherwise, or at one operator alone, is weak ...
-- per_operator = 6
-- # ... unless the networks came with so many user agents: a pool has one viewer's.
-- pool_user_agents = 3
-- # Strong beyond so many networks ...
-- strong_networks = 24
-- # ... if they belong to at least so many operators. Networks whose autonomous system is not known count as one
-- # operator together: without a GeoIP file for them this detector is never strong.
-- strong_operators = 4
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
            WHEN MIN(network_type) IN ('hosting', 'vpn') THEN 'server'
            ELSE COALESCE(CAST(MIN(asn) AS VARCHAR), 'unknown')
        END AS operator,
        MIN(network_type) AS network_type,
        MIN(user_agent) AS user_agent,
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
),
agents AS (
    SELECT session_id, COUNT(*) AS user_agents
    FROM (SELECT DISTINCT session_id, user_agent FROM watching WHERE user_agent IS NOT NULL) AS used
    GROUP BY session_id
)
SELECT
    per_operator.session_id,
    SUM(networks) * 1.0 / $max_networks AS score,
    CASE
        WHEN SUM(LEAST(networks, $per_operator)) > $strong_networks AND COUNT(*) >= $strong_operators THEN 'strong'
        WHEN SUM(LEAST(networks, $per_operator)) > $max_networks AND COUNT(*) >= 2 THEN 'medium'
        WHEN MAX(agents.user_agents) >= $pool_user_agents THEN 'medium'
        ELSE 'weak'
    END AS strength,
    CAST(SUM(networks) AS BIGINT) AS networks,
    COUNT(*) AS operators,
    CAST(SUM(segments) AS BIGINT) AS segments,
    CAST(SUM(requests) AS BIGINT) AS requests
FROM per_operator
LEFT JOIN agents ON agents.session_id = per_operator.session_id
GROUP BY per_operator.session_id
HAVING SUM(networks) > $max_networks
