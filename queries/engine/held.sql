-- The events by which sessions are held: what came of them last is `held`.
SELECT
    time, sequence, event, session_id, detector, score, strength, evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM revocations
WHERE event = 'held' AND sequence IN (
    SELECT MAX(sequence) FROM revocations
    WHERE event IN ('revoked', 'released', 'restored', 'held', 'observed')
    GROUP BY session_id
)
ORDER BY session_id
