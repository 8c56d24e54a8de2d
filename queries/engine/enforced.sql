-- The sessions that are in the rules of the group $group, as far as is recorded, and since when.
WITH ranked AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place
    FROM enforcement
    WHERE rule_group = $group
)
SELECT session_id, mode, time AS applied_at, revoked_at
FROM ranked
WHERE place = 1 AND event = 'applied'
ORDER BY session_id
