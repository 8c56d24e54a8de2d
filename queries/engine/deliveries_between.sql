-- Deliveries of [$start, $end) of the sessions behind $after until $until; null: there is no such bound.
SELECT *
FROM deliveries
WHERE minute >= $start AND minute < $end
    AND ($after IS NULL OR session_id > $after) AND ($until IS NULL OR session_id <= $until)
