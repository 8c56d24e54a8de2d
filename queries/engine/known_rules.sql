-- What the state knows of our rules in the group $group: those that were confirmed last, and those meant to be there since.
WITH confirmed AS (
    SELECT COALESCE(MAX(sequence), 0) AS sequence
    FROM syncs
    WHERE rule_group = $group AND event = 'confirmed'
)
SELECT syncs.time, syncs.event, syncs.fingerprint, syncs.kept
FROM syncs
CROSS JOIN confirmed
WHERE syncs.rule_group = $group AND syncs.sequence >= confirmed.sequence
ORDER BY syncs.sequence
