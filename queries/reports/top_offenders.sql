-- The sessions that were decided on from $since to $until, those with the most blocks and the highest score first: how often each was
-- blocked, held and observed, by which detectors, and until when it is blocked.
WITH decided AS (
    SELECT
        session_id,
        SUM(CASE WHEN event IN ('revoked', 'released') THEN 1 ELSE 0 END) AS blocks,
        SUM(CASE WHEN event = 'extended' THEN 1 ELSE 0 END) AS extensions,
        SUM(CASE WHEN event = 'held' THEN 1 ELSE 0 END) AS held,
        SUM(CASE WHEN event = 'observed' THEN 1 ELSE 0 END) AS observed,
        MAX(score) AS score,
        MIN(time) AS first_decided,
        MAX(time) AS last_decided
    FROM revocations
    WHERE time > $since AND time <= $until AND event IN ('revoked', 'released', 'extended', 'held', 'observed')
    GROUP BY session_id
),
last_word AS (
    SELECT session_id, detector, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place
    FROM revocations
    WHERE time > $since AND time <= $until AND event IN ('revoked', 'released', 'extended', 'held', 'observed')
)
SELECT
    decided.session_id,
    CAST(decided.blocks AS BIGINT) AS blocks,
    CAST(decided.extensions AS BIGINT) AS extensions,
    CAST(decided.held AS BIGINT) AS held,
    CAST(decided.observed AS BIGINT) AS observed,
    decided.score,
    last_word.detector AS last_detectors,
    decided.first_decided,
    decided.last_decided,
    active_revocations.expires_at AS blocked_until
FROM decided
JOIN last_word ON last_word.session_id = decided.session_id AND last_word.place = 1
LEFT JOIN active_revocations ON active_revocations.session_id = decided.session_id
ORDER BY 2 DESC, 6 DESC, 1
