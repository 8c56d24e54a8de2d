-- About which share of the segments that somebody watched in a row is logged: viewers fetch numbered segments one after the
-- other, so that missing numbers are requests that were not logged. Null where too few can be told.
WITH numbered AS (
    SELECT
        network,
        user_agent,
        content,
        TRY_CAST(regexp_replace(path, '^.*?([0-9]{1,15})[^0-9]*$', '\1') AS BIGINT) AS number
    FROM requests
    WHERE accepted AND kind = 'segment' AND network IS NOT NULL
),
fetched AS (
    SELECT DISTINCT network, user_agent, content, number
    FROM numbered
    WHERE number IS NOT NULL
),
steps AS (
    SELECT content, number - LAG(number) OVER (PARTITION BY network, user_agent, content ORDER BY number) AS step
    FROM fetched
),
sized AS (
    -- Segments may be numbered in tens or by their time.
    SELECT step, MIN(step) OVER (PARTITION BY content) AS unit
    FROM steps
    WHERE step > 0
)
SELECT
    COUNT(*) AS steps,
    CAST(AVG(CASE WHEN step = unit THEN 1.0 ELSE 0.0 END) AS DOUBLE) AS share
FROM sized
WHERE step <= 20 * unit
