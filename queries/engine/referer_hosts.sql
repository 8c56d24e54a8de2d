-- With how many sessions each referring host came, and with how many any did: the table `referer_hosts` of detectors with
-- scope = "all".
-- In:  activity of the window, of all sessions.
-- Out: referer_host, sessions, all_sessions.
WITH pairs AS (
    SELECT DISTINCT referer_host, session_id
    FROM activity
    WHERE referer_host IS NOT NULL AND network IS NOT NULL
),
everybody AS (
    SELECT COUNT(*) AS sessions
    FROM (SELECT DISTINCT session_id FROM pairs) AS ids
)
SELECT pairs.referer_host, COUNT(*) AS sessions, MAX(everybody.sessions) AS all_sessions
FROM pairs
CROSS JOIN everybody
GROUP BY pairs.referer_host
