-- What the tables know of each candidate. unknown_expiry: a token's expiry could not be read.
WITH seen AS (
    SELECT
        session_id,
        bool_and(bound) AS always_bound,
        bool_or(bound) AS ever_bound,
        bool_or(derived) AS derived,
        MAX(last_seen) AS last_seen
    FROM stored_activity
    WHERE session_id IN (SELECT session_id FROM candidates)
    GROUP BY session_id
),
tokens AS (
    SELECT session_id, MAX(token_expires) AS token_expires, bool_or(unknown_expiry) AS unknown_expiry
    FROM credentials
    WHERE session_id IN (SELECT session_id FROM candidates)
    GROUP BY session_id
)
SELECT
    seen.session_id,
    seen.always_bound,
    seen.ever_bound,
    seen.derived,
    seen.last_seen,
    CASE WHEN tokens.unknown_expiry THEN NULL ELSE tokens.token_expires END AS token_expires
FROM seen
LEFT JOIN tokens ON tokens.session_id = seen.session_id
