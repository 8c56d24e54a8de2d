-- What each detector found in the windows between $since and $until, or the one that $detector names: a row a session and
-- detector, with its highest score, and what was decided on the session last.
WITH found AS (
    SELECT
        session_id, detector, family, strength, score, window_start, window_end, evidence,
        COUNT(*) OVER (PARTITION BY session_id, detector) AS windows,
        ROW_NUMBER() OVER (PARTITION BY session_id, detector ORDER BY score DESC, window_end) AS place
    FROM findings
    WHERE window_end > $since AND window_start < $until AND detector = COALESCE($detector, detector)
),
decided AS (
    SELECT session_id, event, reason, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place
    FROM revocations
    WHERE time <= $until
)
SELECT
    found.detector,
    found.session_id,
    found.score,
    found.strength,
    found.family,
    found.window_start,
    found.window_end,
    found.windows,
    decided.event AS last_event,
    decided.reason AS last_reason,
    found.evidence
FROM found
LEFT JOIN decided ON decided.session_id = found.session_id AND decided.place = 1
WHERE found.place = 1
ORDER BY found.detector, found.score DESC, found.session_id
