-- One window, [$start, $end), of the deliveries at hand: the sessions with rows of a batch after $after in it.
SELECT *
FROM loaded_deliveries
WHERE minute >= $start AND minute < $end
    AND session_id IN (
        SELECT session_id FROM touched
        WHERE minute >= $start AND minute < $end AND batch > $after AND session_id IS NOT NULL
    )
