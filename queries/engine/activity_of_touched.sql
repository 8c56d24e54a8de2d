-- Activity of [$start, $end) of the sessions that have new rows.
SELECT *
FROM activity
WHERE minute >= $start AND minute < $end AND session_id IN (SELECT session_id FROM touched WHERE session_id IS NOT NULL)
