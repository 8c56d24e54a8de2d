-- Activity of [$start, $end).
SELECT *
FROM activity
WHERE minute >= $start AND minute < $end
