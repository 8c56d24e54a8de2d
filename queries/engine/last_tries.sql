-- When each session with an active revocation was last used or tried, and the latest request of all: logs come late.
WITH tries AS (
    SELECT session_id, last_seen AS tried_at FROM stored_activity
    UNION ALL
    SELECT session_id, minute AS tried_at FROM stored_refusals
)
SELECT
    session_id,
    MAX(tried_at) AS tried_at,
    (SELECT MAX(last_seen) FROM stored_activity) AS latest
FROM tries
WHERE session_id IN (SELECT session_id FROM active_revocations)
GROUP BY session_id
