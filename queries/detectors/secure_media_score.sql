-- [detector]
-- description = "The score of AWS Secure Media Delivery at the Edge, its weights the right way round"
-- family = "secure_media"
-- strength = "strong"
-- window = "10m"
-- every = "5m"
-- ttl = "1h"
-- scope = "all"
-- mode = "observe"
-- false_positives = "a third of the innocent: one change of network and a second user agent suffice. For comparison while moving over, never to block by"
--
-- [params]
-- # Weights of the request rate over the median of all sessions, and of more than one address, referer or user agent.
-- rate_weight = 1.0
-- ip_weight = 1.0
-- referer_weight = 0.0
-- user_agent_weight = 1.0
-- # Found beyond this score.
-- threshold = 2.2
-- # Sessions in the window below which nobody is judged.
-- min_sessions = 3
-- # Seconds that a session must last.
-- min_duration = 30
--
-- [least]
-- threshold = 1
--
-- [thresholds]
-- secure_media_score = "threshold"
WITH sessions AS (
    SELECT
        session_id,
        CAST(SUM(requests) AS DOUBLE) AS requests,
        -- Not all log formats tell fractions of seconds.
        EXTRACT(EPOCH FROM date_trunc('second', MAX(last_seen))) - EXTRACT(EPOCH FROM date_trunc('second', MIN(first_seen)))
            AS duration,
        CASE WHEN MIN(ip) <> MAX(ip) THEN 1 ELSE 0 END AS several_ips,
        CASE WHEN MIN(referer_host) <> MAX(referer_host) THEN 1 ELSE 0 END AS several_referers,
        CASE WHEN MIN(user_agent) <> MAX(user_agent) THEN 1 ELSE 0 END AS several_agents
    FROM activity
    GROUP BY session_id
),
lasting AS (
    SELECT *, requests / duration AS rate
    FROM sessions
    WHERE duration >= $min_duration AND duration > 0
),
middle AS (
    SELECT MEDIAN(rate) AS rate, COUNT(*) AS sessions
    FROM lasting
),
scored AS (
    SELECT
        lasting.session_id,
        lasting.rate / middle.rate * $rate_weight
            + several_ips * $ip_weight
            + several_referers * $referer_weight
            + several_agents * $user_agent_weight AS value,
        lasting.rate / middle.rate AS times_median_rate,
        several_ips,
        several_referers,
        several_agents
    FROM lasting
    CROSS JOIN middle
    WHERE middle.rate > 0 AND middle.sessions >= $min_sessions
)
SELECT session_id, value / $threshold AS score, value AS secure_media_score, times_median_rate, several_ips, several_referers, several_agents
FROM scored
WHERE value > $threshold
