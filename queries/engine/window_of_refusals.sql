-- One window, [$start, $end), of the refusals at hand.
SELECT *
FROM loaded_refusals
WHERE minute >= $start AND minute < $end
