-- credentials: one row per session and credential.
SELECT
    session_id,
    scheme,
    credential,
    MAX(token_expires) AS token_expires,
    bool_or(unknown_expiry) AS unknown_expiry,
    MIN(first_seen) AS first_seen,
    MAX(last_seen) AS last_seen
FROM stored_credentials
GROUP BY session_id, scheme, credential
