-- [detector]
-- description = "One session fetches several times faster than one viewer watches, over several networks"
-- family = "rate"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "all"
-- false_positives = "downloads for later over two connections, skipping through a stream on the way"
--
-- [params]
-- # A minute counts when so many times the pace of one viewer was fetched in it ...
-- min_overrun = 2.5
-- # ... by so many operators' networks, each with so many new segments.
-- min_networks = 3
-- min_segments = 2
-- # Found from so many such minutes on.
-- min_minutes = 6
--
-- [least]
-- min_minutes = 1
-- min_networks = 1
WITH networks AS (
    SELECT session_id, minute, network, SUM(segments) AS segments
    FROM activity
    WHERE network IS NOT NULL
    GROUP BY session_id, minute, network
    HAVING SUM(segments) >= $min_segments
),
minutes AS (
    SELECT session_id, minute, COUNT(*) AS networks, SUM(segments) AS segments
    FROM networks
    GROUP BY session_id, minute
    HAVING COUNT(*) >= $min_networks
)
SELECT
    minutes.session_id,
    AVG(minutes.segments / pace.segments_per_minute) / $min_overrun AS score,
    COUNT(*) AS minutes,
    AVG(minutes.segments / pace.segments_per_minute) AS times_real_time,
    MAX(pace.segments_per_minute) AS pace,
    MAX(minutes.networks) AS most_networks,
    CAST(SUM(minutes.segments) AS BIGINT) AS segments
FROM minutes
INNER JOIN pace ON pace.session_id = minutes.session_id
WHERE minutes.segments >= $min_overrun * pace.segments_per_minute
GROUP BY minutes.session_id
HAVING COUNT(*) >= $min_minutes
