-- Activity of [$start, $end), in order of time.
SELECT *
FROM activity
WHERE minute >= $start AND minute < $end
    -- Where a session is used with a token that covers its id, requests that merely name it are somebody else's.
    AND (bound OR session_id NOT IN (SELECT session_id FROM activity WHERE minute >= $start AND minute < $end AND bound))
ORDER BY minute
