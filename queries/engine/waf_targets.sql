-- What WAF has to match: each active session with its credentials, and how many sessions were seen with each.
-- A null credential: none is known.
WITH known AS (
    SELECT
        active_revocations.session_id,
        credentials.component,
        credentials.credential
    FROM active_revocations
    JOIN credentials ON credentials.session_id = active_revocations.session_id
    -- A token that has expired plays no more; with some minutes for clocks that differ. What a person blocks stays so until its
    -- time is over: where the id is what WAF matches, the next token has the same.
    WHERE active_revocations.origin <> 'auto'
        OR credentials.unknown_expiry
        OR credentials.token_expires > $now - INTERVAL '10 minutes'
),
shared AS (
    SELECT credentials.component, credentials.credential, COUNT(DISTINCT credentials.session_id) AS sessions
    FROM credentials
    WHERE credentials.credential IN (SELECT credential FROM known)
    GROUP BY credentials.component, credentials.credential
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
