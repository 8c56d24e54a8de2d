-- Refusals of [$start, $end), in order of time.
SELECT *
FROM refusals
WHERE minute >= $start AND minute < $end
ORDER BY minute
