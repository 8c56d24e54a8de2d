-- active_revocations: one row per session that is blocked (or, in mode count, counted) at $now.
-- The last event that changes a session's state decides; held and observed change nothing.
WITH state AS (
    SELECT
        *,
        ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place,
        MAX(CASE WHEN event IN ('revoked', 'released') THEN time END) OVER (PARTITION BY session_id) AS revoked_at
    FROM stored_revocations
    WHERE event IN ('revoked', 'extended', 'released', 'expired', 'restored')
)
SELECT
    session_id, detector, score, strength, evidence, reason, origin, mode, revoked_at, window_start, window_end, expires_at
FROM state
WHERE place = 1 AND event IN ('revoked', 'extended', 'released') AND expires_at > $now
