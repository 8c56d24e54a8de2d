-- Rolls the requests of some log objects up to rows of the stored table `credentials`.
-- In:  requests, of whole log objects. Only accepted ones: a token that the edge refused proves nothing.
-- Out: the columns of stored_credentials without batch.
SELECT
    session_id,
    scheme,
    component,
    credential,
    MAX(token_expires) AS token_expires,
    bool_or(token_expires IS NULL) AS unknown_expiry,
    MIN(time) AS first_seen,
    MAX(time) AS last_seen
FROM requests
WHERE accepted AND session_id IS NOT NULL AND credential IS NOT NULL
GROUP BY session_id, scheme, component, credential
