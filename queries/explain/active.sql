-- The block of the session $session, if it is blocked now.
SELECT detector, score, strength, reason, origin, mode, revoked_at, expires_at
FROM active_revocations
WHERE session_id = $session
