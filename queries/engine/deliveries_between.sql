-- Deliveries of [$start, $end).
SELECT *
FROM deliveries
WHERE minute >= $start AND minute < $end
