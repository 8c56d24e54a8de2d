-- How many segments one viewer of a session's contents fetches in a minute, and of how many assets: the table `pace` of detectors with
-- scope = "all".
-- In:  activity of the window; content_pace.
-- Out: session_id, segments_per_minute, assets. What a session fetches beyond its pace was fetched for somebody else.
WITH watched AS (
    SELECT session_id, content, minute, CAST(SUM(segments) AS DOUBLE) AS segments, COUNT(DISTINCT COALESCE(network, '')) AS networks
    FROM activity
    WHERE content IS NOT NULL AND segments > 0
    GROUP BY session_id, content, minute
),
-- What one network alone fetched in a minute: the median of five minutes or more.
own AS (
    SELECT session_id, content, MEDIAN(segments) AS segments
    FROM watched
    WHERE networks = 1
    GROUP BY session_id, content
    HAVING COUNT(*) >= 5
),
contents AS (
    SELECT DISTINCT session_id, content
    FROM watched
),
rest AS (
    SELECT segments_per_minute, assets
    FROM content_pace
    WHERE content IS NULL
),
paced AS (
    SELECT
        contents.session_id,
        contents.content,
        COALESCE(content_pace.segments_per_minute, rest.segments_per_minute) AS segments,
        COALESCE(content_pace.assets, rest.assets) AS assets
    FROM contents
    CROSS JOIN rest
    LEFT JOIN content_pace ON content_pace.content = contents.content
)
-- Of several contents the quickest: advertisements in a film are no second film. A player of another kind than those of the others may
-- fetch sound and text in segments of their own: where the session is used from one network alone it shows that. It is believed up to
-- forty times what the others fetch, as parts of segments, of pictures and of sound, are to these.
SELECT
    paced.session_id,
    MAX(GREATEST(paced.segments, LEAST(COALESCE(own.segments, 0), 40 * paced.segments))) AS segments_per_minute,
    MAX(paced.assets) AS assets
FROM paced
LEFT JOIN own ON own.session_id = paced.session_id AND own.content = paced.content
GROUP BY paced.session_id
