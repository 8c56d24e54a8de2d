-- The history since $since; of one session and one detector, where these are not null.
SELECT
    time, sequence, event, session_id, detector, score, strength, evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM revocations
WHERE time >= $since
    AND ($session IS NULL OR session_id = $session)
    AND ($detector IS NULL OR strpos(',' || detector || ',', ',' || $detector || ',') > 0)
ORDER BY sequence
