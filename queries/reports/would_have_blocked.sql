-- What mode enforce would have blocked from $since to $until, while the overall mode was observe or count: the sessions that nothing but
-- the mode kept from being blocked, and for whom the findings of detectors suffice whose own mode (detector_modes) is enforce.
-- `blocks_of_hour`: how many of them had come in the hour before, for the guard would have held all that go beyond its limits.
WITH able AS (
    SELECT findings.session_id, findings.window_start, findings.window_end, findings.family, findings.strength
    FROM findings
    JOIN detector_modes ON detector_modes.detector = findings.detector AND detector_modes.mode = 'enforce'
    WHERE findings.window_end > $since AND findings.window_start < $until AND findings.strength IN ('medium', 'strong')
),
sufficing AS (
    SELECT session_id, window_start, window_end
    FROM able
    WHERE strength = 'strong'
    UNION ALL
    SELECT one.session_id, one.window_start, one.window_end
    FROM able AS one
    JOIN able AS other ON other.session_id = one.session_id
    WHERE one.family <> other.family
        AND one.window_start < other.window_end
        AND other.window_start < one.window_end
),
decided AS (
    SELECT
        time, sequence, session_id, detector, score, strength, mode, reason, expires_at,
        ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence) AS place
    FROM revocations
    WHERE time > $since AND time <= $until
        AND origin = 'auto'
        AND (
            event = 'observed' AND mode = 'observe' AND reason LIKE '%not blocked: mode observe'
            OR event IN ('revoked', 'released') AND mode = 'count'
        )
        AND session_id IN (SELECT session_id FROM sufficing)
),
sessions AS (
    SELECT session_id, COUNT(*) AS decisions, MAX(expires_at) AS until
    FROM decided
    GROUP BY session_id
)
SELECT
    decided.time,
    decided.session_id,
    decided.detector,
    decided.score,
    decided.strength,
    decided.mode,
    sessions.until,
    sessions.decisions,
    COUNT(*) OVER (ORDER BY decided.time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS blocks_of_hour
FROM decided
JOIN sessions ON sessions.session_id = decided.session_id
WHERE decided.place = 1
ORDER BY decided.time, decided.session_id
