-- Requests that claimed the session $session and were refused.
SELECT CAST(COALESCE(SUM(requests), 0) AS BIGINT) AS requests
FROM refusals
WHERE session_id = $session
