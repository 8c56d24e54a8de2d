-- What mode enforce would have blocked from $since to $until, where the overall mode or that of detectors was observe or count:
-- the sessions that nothing but the mode kept from being blocked. `blocks_of_hour`: how many of them had come in the hour before, for
-- the guard would have held all that go beyond its limits.
WITH decided AS (
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
