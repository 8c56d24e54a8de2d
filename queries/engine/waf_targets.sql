-- What WAF has to match: each active session with its credentials, and how many sessions were seen with each.
-- A null credential: none is known.
WITH shared AS (
    SELECT component, credential, COUNT(DISTINCT session_id) AS sessions
    FROM credentials
    GROUP BY component, credential
),
known AS (
    -- A token that has expired plays no more; with some minutes for clocks that differ.
    SELECT session_id, component, credential
    FROM credentials
    WHERE unknown_expiry OR token_expires > $now - INTERVAL '10 minutes'
)
SELECT
    active_revocations.session_id,
    active_revocations.mode,
    active_revocations.origin,
    active_revocations.detector,
    active_revocations.strength,
    active_revocations.score,
    active_revocations.revoked_at,
    known.component,
    known.credential,
    COALESCE(shared.sessions, 0) AS sessions
FROM active_revocations
LEFT JOIN known ON known.session_id = active_revocations.session_id
LEFT JOIN shared ON shared.component = known.component AND shared.credential = known.credential
ORDER BY active_revocations.session_id, known.component, known.credential
