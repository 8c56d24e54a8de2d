-- [detector]
-- description = "One token on many assets at once"
-- family = "catalogue"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "all"
-- false_positives = "a mosaic of six live pictures or more on one screen; medium: of four, and a player that fetches pictures, sound and text from folders of which nobody can tell that, where nearly all others do not"
--
-- [params]
-- # An asset counts in a minute when so many of its segments were fetched.
-- min_segments = 2
-- # A minute counts when so many times the assets were fetched in it that one viewer of the same fetches at once (one, as a rule) ...
-- min_assets = 4
-- # ... and as much as so many viewers watch. Zapping, and advertisements in a stream, are one viewer.
-- min_streams = 3.0
-- # Found from so many such minutes on.
-- min_minutes = 5
-- # Strong from so many minutes on with so many times the assets: no player fetches so many pictures, sounds and texts of one film.
-- strong_assets = 6
--
-- [needs]
-- contents = { several = "min_assets", in_minutes = ["min_minutes"] }
--
-- [least]
-- min_assets = 2
-- strong_assets = 2
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
    CASE
        WHEN SUM(CASE WHEN minutes.assets >= $strong_assets * pace.assets THEN 1 ELSE 0 END) >= $min_minutes THEN 'strong'
        ELSE 'medium'
    END AS strength,
    COUNT(*) AS minutes,
    MAX(minutes.assets) AS most_assets,
    MAX(pace.assets) AS usual_assets,
    AVG(minutes.segments / (pace.segments_per_minute * pace.assets)) AS streams,
    CAST(SUM(minutes.segments) AS BIGINT) AS segments
FROM minutes
INNER JOIN pace ON pace.session_id = minutes.session_id
WHERE minutes.assets >= $min_assets * pace.assets
    AND minutes.segments >= $min_streams * pace.segments_per_minute * pace.assets
GROUP BY minutes.session_id
HAVING COUNT(*) >= $min_minutes
