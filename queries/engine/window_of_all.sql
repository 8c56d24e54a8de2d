-- One window, [$start, $end), of the activity at hand: all sessions.
SELECT *
FROM loaded_activity
WHERE minute >= $start AND minute < $end
