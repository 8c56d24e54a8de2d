-- How many segments one viewer of a content fetches in a minute, and of how many assets: what the table `pace` of detectors is made of.
-- In:  activity of the window, of all sessions.
-- Out: content, segments_per_minute, assets. A null content stands for all others. A viewer fetches each moment of a stream once,
--      whatever his addresses; of several assets where its pictures and sound lie in folders of which nobody can tell that.
WITH networks AS (
    SELECT session_id, content, minute, CAST(SUM(segments) AS DOUBLE) AS segments
    FROM activity
    WHERE content IS NOT NULL AND segments > 0
    GROUP BY session_id, content, minute, network
),
at_once AS (
    SELECT session_id, minute, COUNT(DISTINCT content) AS assets
    FROM networks
    GROUP BY session_id, minute
),
-- Minutes in which one network alone fetched the content: there was one viewer.
alone AS (
    SELECT session_id, content, minute, MAX(segments) AS segments
    FROM networks
    GROUP BY session_id, content, minute
    HAVING COUNT(*) = 1
),
-- One voice a session, however long it watches.
voices AS (
    SELECT alone.session_id, alone.content, MEDIAN(alone.segments) AS segments, MEDIAN(CAST(at_once.assets AS DOUBLE)) AS assets
    FROM alone
    INNER JOIN at_once ON at_once.session_id = alone.session_id AND at_once.minute = alone.minute
    GROUP BY alone.session_id, alone.content
    HAVING COUNT(*) >= 5
),
contents AS (
    SELECT content, MEDIAN(segments) AS segments, MEDIAN(assets) AS assets, COUNT(*) AS sessions
    FROM voices
    GROUP BY content
),
-- Of what is not known enough nobody is held to the pace of the rest, but to that of its quickest tenth: segments may be shorter
-- there, or sound come in segments of its own. Of the viewers, each by what he fetches most quickly, so that nobody can outvote the others; or
-- of the contents, where most of the viewers watch one of a kind.
viewers AS (
    SELECT MAX(segments) AS segments, MAX(assets) AS assets
    FROM voices
    GROUP BY session_id
),
ranked AS (
    SELECT
        segments,
        assets,
        ROW_NUMBER() OVER (ORDER BY segments) AS place,
        ROW_NUMBER() OVER (ORDER BY assets) AS place_of_assets,
        COUNT(*) OVER () AS voices
    FROM viewers
),
ranked_contents AS (
    SELECT
        segments,
        ROW_NUMBER() OVER (ORDER BY segments) AS place,
        COUNT(*) OVER () AS contents
    FROM contents
),
of_viewers AS (
    SELECT
        MIN(CASE WHEN place >= 0.9 * voices THEN segments END) AS segments,
        MIN(CASE WHEN place_of_assets >= 0.75 * voices THEN assets END) AS assets
    FROM ranked
    WHERE voices >= 5
),
of_contents AS (
    SELECT MIN(segments) AS segments
    FROM ranked_contents
    WHERE place >= 0.9 * contents
),
-- What a few say holds for nobody else.
overall AS (
    SELECT GREATEST(of_viewers.segments, of_contents.segments) AS segments, of_viewers.assets
    FROM of_viewers
    CROSS JOIN of_contents
    WHERE of_viewers.segments > 0
)
-- What only a few watch is as quick as the quickest of the rest, at least: their own word does not count. Nor does it for how many assets
-- they fetch at once: one token on many assets is perhaps the only one on each, and among few viewers one of the quickest tenth.
SELECT
    contents.content,
    CASE WHEN contents.sessions >= 5 THEN contents.segments ELSE GREATEST(contents.segments, overall.segments) END AS segments_per_minute,
    CASE WHEN contents.sessions >= 5 THEN contents.assets ELSE overall.assets END AS assets
FROM contents
CROSS JOIN overall
UNION ALL
SELECT CAST(NULL AS VARCHAR) AS content, segments AS segments_per_minute, assets
FROM overall
