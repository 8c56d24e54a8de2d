-- The event on which each block stands that has not been ended; its time may be over.
SELECT
    time, sequence, event, session_id, detector, score, strength, evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM revocations
WHERE event IN ('revoked', 'extended', 'released') AND sequence IN (
    SELECT MAX(sequence) FROM revocations
    WHERE event IN ('revoked', 'extended', 'released', 'expired', 'restored')
    GROUP BY session_id
)
ORDER BY session_id
