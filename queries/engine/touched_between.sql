-- Of the touched minutes those of [$start, $end); the refusals that share a row have no session.
SELECT minute, session_id, batch
FROM touched
WHERE minute >= $start AND minute < $end AND session_id IS NOT NULL
