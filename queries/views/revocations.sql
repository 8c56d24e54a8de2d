-- revocations: the append-only history.
SELECT
    time, sequence, event, session_id, detector, score, strength, evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM stored_revocations
