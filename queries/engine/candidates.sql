-- Sessions with findings that were not decided on, or with some that are not found any more: of detections after $after. Those of the table
-- `resumed`. With $held also those that are held: what came of a session last, of all that changes its state, is `held`.
WITH ranked AS (
    SELECT session_id, event, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place
    FROM revocations
    WHERE event IN ('revoked', 'released', 'restored', 'held', 'observed')
)
SELECT DISTINCT session_id FROM stored_findings WHERE evaluation > $after
UNION
SELECT session_id FROM resumed
UNION
SELECT session_id FROM ranked WHERE $held AND place = 1 AND event = 'held'
