-- Sessions with findings that were not decided on, or with some that are not found any more: of detections after $after. Those of the table
-- `resumed`. With $held also those that are held: what came of a session last, of all that changes its state, is `held`.
SELECT DISTINCT session_id FROM stored_findings WHERE evaluation > $after
UNION
SELECT session_id FROM resumed
UNION
SELECT session_id
FROM revocations
WHERE $held AND event = 'held' AND sequence IN (
    SELECT MAX(sequence) FROM revocations
    WHERE event IN ('revoked', 'released', 'restored', 'held', 'observed')
    GROUP BY session_id
)
