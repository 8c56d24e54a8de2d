-- Of the touched minutes those of [$start, $end) and of the sessions behind $after until $until (null: there is no such bound); the
-- refusals that share a row have no session.
SELECT minute, session_id, batch
FROM touched
WHERE minute >= $start AND minute < $end AND session_id IS NOT NULL
    AND ($after IS NULL OR session_id > $after) AND ($until IS NULL OR session_id <= $until)
