-- active_revocations: one row per session that is blocked (or, in mode count, counted) at $now.
-- The last event that changes a session's state decides; held and observed change nothing.
WITH latest AS (
    SELECT
        MAX(sequence) AS sequence,
        MAX(CASE WHEN event IN ('revoked', 'released') THEN time END) AS revoked_at
    FROM stored_revocations
    WHERE event IN ('revoked', 'extended', 'released', 'expired', 'restored')
    GROUP BY session_id
)
SELECT
    session_id, detector, score, strength, evidence, reason, origin, mode, revoked_at, window_start, window_end, expires_at
FROM stored_revocations
JOIN latest ON latest.sequence = stored_revocations.sequence
WHERE event IN ('revoked', 'extended', 'released') AND expires_at > $now
