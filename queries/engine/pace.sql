-- How many segments one viewer of a session's contents fetches in a minute: the table `pace` of detectors with scope = "all".
-- In:  activity of the window, of all sessions.
-- Out: session_id, segments_per_minute. A viewer fetches each moment of a stream once, whatever his addresses; what a
--      session fetches beyond its pace was fetched for somebody else.
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
),
watched AS (
    SELECT DISTINCT session_id, content
    FROM networks
)
-- Of several contents the quickest: advertisements in a film are no second film. What only a few watch is as
-- quick as the quickest of the rest, at least: their own word does not count.
SELECT
    watched.session_id,
    MAX(
        CASE
            WHEN contents.sessions >= 5 THEN contents.segments
            ELSE GREATEST(COALESCE(contents.segments, 0), overall.segments)
        END
    ) AS segments_per_minute
FROM watched
CROSS JOIN overall
LEFT JOIN contents ON contents.content = watched.content
WHERE overall.segments > 0
GROUP BY watched.session_id
