-- Refusals of [$start, $end).
SELECT *
FROM refusals
WHERE minute >= $start AND minute < $end
