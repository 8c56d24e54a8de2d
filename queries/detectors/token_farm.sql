-- [detector]
-- description = "One token on many assets at once"
-- family = "catalogue"
-- strength = "strong"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "all"
-- false_positives = "a mosaic of several live pictures on one screen"
--
-- [params]
-- # An asset counts in a minute when so many of its segments were fetched.
-- min_segments = 2
-- # A minute counts when so many assets were watched in it ...
-- min_assets = 4
-- # ... and as much was fetched as so many viewers watch. Zapping, and advertisements in a stream, are one viewer.
-- min_streams = 3.0
-- # Found from so many such minutes on.
-- min_minutes = 5
--
-- [needs]
-- contents = { several = "min_assets", in_minutes = ["min_minutes"] }
--
-- [least]
-- min_assets = 2
-- min_minutes = 1
--
-- [thresholds]
-- minutes = "min_minutes"
WITH assets AS (
    SELECT session_id, minute, content, SUM(segments) AS segments
    FROM activity
    WHERE content IS NOT NULL
    GROUP BY session_id, minute, content
    HAVING SUM(segments) >= $min_segments
),
minutes AS (
    SELECT session_id, minute, COUNT(*) AS assets, SUM(segments) AS segments
    FROM assets
    GROUP BY session_id, minute
    HAVING COUNT(*) >= $min_assets
)
SELECT
    minutes.session_id,
    COUNT(*) * 1.0 / $min_minutes AS score,
    COUNT(*) AS minutes,
    MAX(minutes.assets) AS most_assets,
    AVG(minutes.segments / pace.segments_per_minute) AS streams,
    CAST(SUM(minutes.segments) AS BIGINT) AS segments
FROM minutes
INNER JOIN pace ON pace.session_id = minutes.session_id
WHERE minutes.segments >= $min_streams * pace.segments_per_minute
GROUP BY minutes.session_id
HAVING COUNT(*) >= $min_minutes
