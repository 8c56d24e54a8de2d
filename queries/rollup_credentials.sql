-- Rolls the requests of some log objects up to rows of the stored table `credentials`.
-- In:  requests, of whole log objects. Only accepted ones, as for activity: a token that the edge refused, or did not look at, proves nothing.
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
WHERE accepted AND session_id IS NOT NULL AND credential IS NOT NULL AND (method IS NULL OR method IN ('GET', 'HEAD'))
GROUP BY session_id, scheme, component, credential
