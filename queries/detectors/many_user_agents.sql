-- [detector]
-- description = "One session, many user agents"
-- family = "device"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "players that use one agent for manifests and another for segments, casting, an app update"
--
-- [params]
-- # User agents in the window beyond which a session is found.
-- max_user_agents = 4
-- # Strong beyond so many ...
-- strong_user_agents = 16
-- # ... if they are spread over more networks than this (a browser that changes its agent with every request is one viewer).
-- strong_networks = 8
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
    SELECT session_id, network
    FROM activity
    WHERE network IS NOT NULL AND session_id IN (SELECT session_id FROM found)
    GROUP BY session_id, network
    HAVING SUM(segments) >= $min_segments
),
spread AS (
    SELECT session_id, COUNT(*) AS networks
    FROM networks
    GROUP BY session_id
)
SELECT
    found.session_id,
    found.user_agents * 1.0 / $max_user_agents AS score,
    CASE
        WHEN found.user_agents > $strong_user_agents AND spread.networks > $strong_networks THEN 'strong'
        ELSE 'medium'
    END AS strength,
    found.user_agents,
    COALESCE(spread.networks, 0) AS networks,
    CAST(found.segments AS BIGINT) AS segments,
    CAST(found.requests AS BIGINT) AS requests
FROM found
LEFT JOIN spread ON spread.session_id = found.session_id
