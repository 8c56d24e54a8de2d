-- The sessions of which the activity at hand has requests with a token that covers the id, and others, in [$start, $end).
SELECT session_id
FROM loaded_activity
WHERE minute >= $start AND minute < $end
GROUP BY session_id
HAVING bool_or(bound) AND NOT bool_and(bound)
