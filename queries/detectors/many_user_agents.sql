-- [detector]
-- description = "One session, many user agents"
-- family = "device"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "a household that has one token for all its devices, some of them out; players that change their agent with every title"
--
-- [params]
-- # User agents in the window beyond which a session is found.
-- max_user_agents = 4
-- # Strong beyond so many ...
-- strong_user_agents = 16
-- # ... if they are spread over more networks than this (a browser that changes its agent with every request is one viewer).
-- strong_networks = 8
-- # Medium where networks of two operators are among so many, or where there are so many agents that no household has them. A carrier's pool
-- # and all relays are one network, and so is a line with IPv4 and IPv6.
-- medium_networks = 3
-- crowd_user_agents = 10
-- # An agent or a network counts when it fetched at least so many different segments: watching, not probing.
-- min_segments = 3
--
-- [needs]
-- user_agents = "max_user_agents"
--
-- [least]
-- max_user_agents = 1
--
-- [thresholds]
-- user_agents = "max_user_agents"
WITH agents AS (
    SELECT session_id, user_agent, SUM(segments) AS segments, SUM(requests) AS requests
    FROM activity
    WHERE user_agent IS NOT NULL
    GROUP BY session_id, user_agent
    HAVING SUM(segments) >= $min_segments
),
found AS (
    SELECT session_id, COUNT(*) AS user_agents, SUM(segments) AS segments, SUM(requests) AS requests
    FROM agents
    GROUP BY session_id
    HAVING COUNT(*) > $max_user_agents
),
-- Found first, then the networks of what was found: never two COUNT(DISTINCT) over all sessions.
networks AS (
    SELECT
        session_id,
        network,
        CASE
            WHEN MIN(network_type) = 'relay' THEN 'relay'
            ELSE COALESCE(CAST(MIN(asn) AS VARCHAR), 'unknown')
        END AS operator,
        MIN(network_type) AS network_type
    FROM activity
    WHERE network IS NOT NULL AND session_id IN (SELECT session_id FROM found)
    GROUP BY session_id, network
    HAVING SUM(segments) >= $min_segments
),
per_operator AS (
    SELECT
        session_id,
        operator,
        COUNT(*) AS networks,
        CASE
            WHEN MIN(network_type) IN ('mobile', 'relay') THEN 1
            ELSE GREATEST(
                SUM(CASE WHEN network LIKE '%:%' THEN 1 ELSE 0 END),
                SUM(CASE WHEN network LIKE '%:%' THEN 0 ELSE 1 END)
            )
        END AS lines
    FROM networks
    GROUP BY session_id, operator
),
spread AS (
    SELECT
        session_id,
        SUM(networks) AS networks,
        CASE WHEN (COUNT(*) >= 2 OR MIN(operator) = 'unknown') AND SUM(lines) >= $medium_networks THEN 1 ELSE 0 END AS apart
    FROM per_operator
    GROUP BY session_id
)
SELECT
    found.session_id,
    found.user_agents * 1.0 / $max_user_agents AS score,
    CASE
        WHEN found.user_agents > $strong_user_agents AND spread.networks > $strong_networks THEN 'strong'
        WHEN spread.apart = 1 OR found.user_agents >= $crowd_user_agents THEN 'medium'
        ELSE 'weak'
    END AS strength,
    found.user_agents,
    CAST(COALESCE(spread.networks, 0) AS BIGINT) AS networks,
    CAST(found.segments AS BIGINT) AS segments,
    CAST(found.requests AS BIGINT) AS requests
FROM found
LEFT JOIN spread ON spread.session_id = found.session_id
