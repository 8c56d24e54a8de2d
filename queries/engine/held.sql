-- The events by which sessions are held: what came of them last is `held`.
WITH ranked AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place
    FROM revocations
    WHERE event IN ('revoked', 'released', 'restored', 'held', 'observed')
)
SELECT
    time, sequence, event, session_id, detector, score, strength, evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM ranked
WHERE place = 1 AND event = 'held'
ORDER BY session_id
