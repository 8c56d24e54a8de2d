-- The sessions that are held: what came of them last is `held`.
WITH ranked AS (
    SELECT session_id, event, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place
    FROM revocations
    WHERE event IN ('revoked', 'released', 'restored', 'held', 'observed')
)
SELECT session_id
FROM ranked
WHERE place = 1 AND event = 'held'
