-- The history of the candidates, in order.
SELECT
    time, sequence, event, session_id, detector, score, strength, evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM revocations
WHERE session_id IN (SELECT session_id FROM candidates)
ORDER BY sequence
