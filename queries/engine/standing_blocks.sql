-- The event on which each block stands that has not been ended; its time may be over.
WITH state AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place
    FROM revocations
    WHERE event IN ('revoked', 'extended', 'released', 'expired', 'restored')
)
SELECT
    time, sequence, event, session_id, detector, score, strength, evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM state
WHERE place = 1 AND event IN ('revoked', 'extended', 'released')
ORDER BY session_id
