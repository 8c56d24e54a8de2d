-- What was decided on sessions after $sequence and is worth telling.
SELECT
    time, sequence, event, session_id, detector, score, strength, CAST(NULL AS TEXT) AS evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM revocations
WHERE sequence > $sequence AND event IN ('revoked', 'released', 'held')
ORDER BY sequence
