-- How many segments one viewer of a content fetches in a minute: what the table `pace` of detectors is made of.
-- In:  activity of the window, of all sessions.
-- Out: content, segments_per_minute. A null content stands for all others. A viewer fetches each moment of a stream once,
--      whatever his addresses.
WITH networks AS (
    SELECT session_id, content, minute, CAST(SUM(segments) AS DOUBLE) AS segments
    FROM activity
    WHERE content IS NOT NULL AND segments > 0
    GROUP BY session_id, content, minute, network
),
-- Minutes in which one network alone fetched the content: there was one viewer.
alone AS (
    SELECT session_id, content, MAX(segments) AS segments
    FROM networks
    GROUP BY session_id, content, minute
    HAVING COUNT(*) = 1
),
-- One voice a session, however long it watches.
voices AS (
    SELECT session_id, content, MEDIAN(segments) AS segments
    FROM alone
    GROUP BY session_id, content
    HAVING COUNT(*) >= 5
),
contents AS (
    SELECT content, MEDIAN(segments) AS segments, COUNT(*) AS sessions
    FROM voices
    GROUP BY content
),
-- Of what is not known enough nobody is held to the pace of the rest, but to that of its quickest tenth: segments may be shorter
-- there, or sound come in segments of its own. Of the viewers, each by what he fetches most quickly, so that nobody can outvote the others; or
-- of the contents, where most of the viewers watch one of a kind.
viewers AS (
    SELECT MAX(segments) AS segments
    FROM voices
    GROUP BY session_id
),
ranked AS (
    SELECT
        segments,
        ROW_NUMBER() OVER (ORDER BY segments) AS place,
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
-- What a few say holds for nobody else.
overall AS (
    SELECT GREATEST(of_viewers.segments, of_contents.segments) AS segments
    FROM (SELECT MIN(segments) AS segments FROM ranked WHERE voices >= 5 AND place >= 0.9 * voices) AS of_viewers
    CROSS JOIN (SELECT MIN(segments) AS segments FROM ranked_contents WHERE place >= 0.9 * contents) AS of_contents
    WHERE of_viewers.segments > 0
)
-- What only a few watch is as quick as the quickest of the rest, at least: their own word does not count.
SELECT
    contents.content,
    CASE WHEN contents.sessions >= 5 THEN contents.segments ELSE GREATEST(contents.segments, overall.segments) END AS segments_per_minute
FROM contents
CROSS JOIN overall
UNION ALL
SELECT CAST(NULL AS VARCHAR) AS content, segments AS segments_per_minute
FROM overall
