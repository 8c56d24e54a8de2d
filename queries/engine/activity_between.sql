-- Activity of [$start, $end) of the sessions behind $after until $until, both in the order of their ids and null where there is no
-- such bound.
SELECT *
FROM activity
WHERE minute >= $start AND minute < $end
    AND ($after IS NULL OR session_id > $after) AND ($until IS NULL OR session_id <= $until)
