-- [detector]
-- description = "One token on many assets at once"
-- family = "catalogue"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "all"
-- false_positives = "a mosaic of six live pictures or more on one screen; medium: of four, a token that is a household's and not a playback's, and a player that fetches pictures, sound and text from folders of which nobody can tell that, where nearly all others do not"
--
-- [params]
-- # An asset counts in a minute when so many of its segments were fetched.
-- min_segments = 2
-- # ... and when it belongs to so many of the kind that follow each other, with a pause of one at most: advertisements in a stream,
-- # zapping, previews and a feed of clips, with all that is loaded ahead, are one viewer, who goes on to the next.
-- run_minutes = 5
-- # A minute counts when so many times the assets were fetched in it that one viewer of the same fetches at once (one, as a rule) ...
-- min_assets = 4
-- # ... and as much as so many viewers watch.
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
-- run_minutes = 1
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
placed AS (
    SELECT
        session_id, minute, content, segments,
        CASE
            WHEN LAG(minute) OVER (PARTITION BY session_id, content ORDER BY minute) >= minute - INTERVAL '2' MINUTE THEN 0
            ELSE 1
        END AS begins
    FROM assets
),
runs AS (
    SELECT
        session_id, minute, content, segments,
        SUM(begins) OVER (PARTITION BY session_id, content ORDER BY minute) AS run
    FROM placed
),
watched AS (
    SELECT session_id, minute, segments, COUNT(*) OVER (PARTITION BY session_id, content, run) AS run_minutes
    FROM runs
),
minutes AS (
    SELECT session_id, minute, COUNT(*) AS assets, SUM(segments) AS segments
    FROM watched
    WHERE run_minutes >= $run_minutes
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
