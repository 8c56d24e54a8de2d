-- The sessions that have requests with a token that covers the id, and others, in [$start, $end).
SELECT session_id
FROM stored_activity
WHERE minute >= $start AND minute < $end
GROUP BY session_id
HAVING bool_or(bound) AND NOT bool_and(bound)
