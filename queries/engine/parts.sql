-- The sessions of [$start, $end) in order of their ids, in $parts parts that have about as many rows each: the last one of each part.
WITH counted AS (
    SELECT session_id, COUNT(*) AS rows
    FROM stored_activity
    WHERE minute >= $start AND minute < $end
    GROUP BY session_id
),
placed AS (
    SELECT session_id, SUM(rows) OVER (ORDER BY session_id) - rows AS before, SUM(rows) OVER () AS all_rows
    FROM counted
)
SELECT MAX(session_id) AS session_id
FROM placed
GROUP BY before * $parts / all_rows
ORDER BY session_id
