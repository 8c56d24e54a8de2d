-- The event on which each automatic block stands that is in force at $now.
WITH state AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place
    FROM revocations
    WHERE event IN ('revoked', 'extended', 'released', 'expired', 'restored')
)
SELECT
    time, sequence, event, session_id, detector, score, strength, evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM state
WHERE place = 1 AND event IN ('revoked', 'extended', 'released') AND expires_at > $now AND origin = 'auto'
ORDER BY session_id
