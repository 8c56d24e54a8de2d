-- The session $session, as a candidate for what decisions know.
SELECT CAST($session AS VARCHAR) AS session_id
