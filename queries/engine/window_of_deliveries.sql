-- One window, [$start, $end), of the deliveries at hand.
SELECT *
FROM loaded_deliveries
WHERE minute >= $start AND minute < $end
