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
-- One voice a session, however long it watches: nobody can outvote the others.
voices AS (
    SELECT session_id, content, MEDIAN(segments) AS segments
    FROM alone
    GROUP BY session_id, content
    HAVING COUNT(*) >= 5
),
-- Of what is not known enough nobody is held to the pace of the rest, but to that of its quickest tenth: segments may be shorter
-- there, or sound come in segments of its own.
ranked AS (
    SELECT
        segments,
        ROW_NUMBER() OVER (ORDER BY segments) AS place,
        COUNT(*) OVER () AS voices
    FROM voices
),
overall AS (
    SELECT MIN(segments) AS segments
    FROM ranked
    WHERE place >= 0.9 * voices
),
contents AS (
    SELECT content, MEDIAN(segments) AS segments, COUNT(*) AS sessions
    FROM voices
    GROUP BY content
)
-- What only a few watch is as quick as the quickest of the rest, at least: their own word does not count.
SELECT
    contents.content,
    CASE WHEN contents.sessions >= 5 THEN contents.segments ELSE GREATEST(contents.segments, overall.segments) END AS segments_per_minute
FROM contents
CROSS JOIN overall
WHERE overall.segments > 0
UNION ALL
SELECT CAST(NULL AS VARCHAR) AS content, segments AS segments_per_minute
FROM overall
WHERE segments > 0
