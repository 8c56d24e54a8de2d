-- What WAF has to match: each active session with its credentials, and how many sessions were seen with each.
-- A null credential: none is known.
WITH shared AS (
    SELECT scheme, credential, COUNT(DISTINCT session_id) AS sessions
    FROM credentials
    GROUP BY scheme, credential
)
SELECT
    active_revocations.session_id,
    active_revocations.mode,
    active_revocations.origin,
    active_revocations.detector,
    credentials.credential,
    COALESCE(shared.sessions, 0) AS sessions
FROM active_revocations
LEFT JOIN credentials ON credentials.session_id = active_revocations.session_id
LEFT JOIN shared ON shared.scheme = credentials.scheme AND shared.credential = credentials.credential
ORDER BY active_revocations.session_id, credentials.credential
