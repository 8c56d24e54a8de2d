-- Activity of [$start, $end) of the sessions that have new rows, of those behind $after until $until (null: there is no such bound).
SELECT *
FROM activity
WHERE minute >= $start AND minute < $end AND session_id IN (SELECT session_id FROM touched WHERE session_id IS NOT NULL)
    AND ($after IS NULL OR session_id > $after) AND ($until IS NULL OR session_id <= $until)
