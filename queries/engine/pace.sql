-- How many segments one viewer of a session's contents fetches in a minute: the table `pace` of detectors with scope = "all".
-- In:  activity of the window; content_pace.
-- Out: session_id, segments_per_minute. What a session fetches beyond its pace was fetched for somebody else.
WITH watched AS (
    SELECT DISTINCT session_id, content
    FROM activity
    WHERE content IS NOT NULL AND segments > 0
),
rest AS (
    SELECT segments_per_minute
    FROM content_pace
    WHERE content IS NULL
)
-- Of several contents the quickest: advertisements in a film are no second film.
SELECT watched.session_id, MAX(COALESCE(content_pace.segments_per_minute, rest.segments_per_minute)) AS segments_per_minute
FROM watched
CROSS JOIN rest
LEFT JOIN content_pace ON content_pace.content = watched.content
GROUP BY watched.session_id
