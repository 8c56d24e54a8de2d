-- How many rows each minute of [$start, $end) has.
SELECT minute, COUNT(*) AS rows
FROM stored_activity
WHERE minute >= $start AND minute < $end
GROUP BY minute
