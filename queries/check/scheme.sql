-- What one session scheme makes of the requests at hand: of those that were accepted, and how many networks share
-- a session.
WITH per_session AS (
    SELECT session_id, COUNT(*) AS requests, COUNT(DISTINCT network) AS networks, bool_and(bound) AS bound, bool_or(derived) AS derived
    FROM requests
    WHERE accepted AND session_id IS NOT NULL
    GROUP BY session_id
)
SELECT
    CAST(COALESCE(SUM(requests), 0) AS BIGINT) AS requests,
    COUNT(*) AS sessions,
    CAST(COALESCE(SUM(CASE WHEN bound THEN requests ELSE 0 END), 0) AS BIGINT) AS bound,
    CAST(COALESCE(SUM(CASE WHEN derived THEN requests ELSE 0 END), 0) AS BIGINT) AS derived,
    COALESCE(MAX(networks), 0) AS most_networks,
    CAST(COALESCE(AVG(networks), 0) AS DOUBLE) AS mean_networks
FROM per_session
