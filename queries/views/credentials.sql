-- credentials: one row per session and credential. States of version 1 knew no component, and one scheme.
SELECT
    session_id,
    scheme,
    credential,
    MAX(token_expires) AS token_expires,
    bool_or(unknown_expiry) AS unknown_expiry,
    MIN(first_seen) AS first_seen,
    MAX(last_seen) AS last_seen,
    COALESCE(component, 'path-start') AS component
FROM stored_credentials
GROUP BY session_id, scheme, COALESCE(component, 'path-start'), credential
