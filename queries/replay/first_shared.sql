-- When each candidate was first shared: the first minute with two networks in it; of one whose networks never meet the first
-- minute of its second network, of one with a single network its first minute.
WITH used AS (
    SELECT session_id, network, minute
    FROM activity
    WHERE session_id IN (SELECT session_id FROM candidates)
),
met AS (
    SELECT session_id, MIN(minute) AS minute
    FROM (SELECT session_id, minute FROM used GROUP BY session_id, minute HAVING COUNT(DISTINCT network) > 1) AS several
    GROUP BY session_id
),
begun AS (
    SELECT session_id, network, MIN(minute) AS minute FROM used GROUP BY session_id, network
),
ranked AS (
    SELECT session_id, minute, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY minute) AS place FROM begun
)
SELECT
    first.session_id,
    COALESCE(met.minute, second.minute, first.minute) AS shared_at
FROM ranked AS first
LEFT JOIN ranked AS second ON second.session_id = first.session_id AND second.place = 2
LEFT JOIN met ON met.session_id = first.session_id
WHERE first.place = 1
