-- The sessions that are in the rules of the group $group, as far as is recorded, and since when they are with all that WAF matches.
WITH ranked AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY session_id ORDER BY sequence DESC) AS place
    FROM enforcement
    WHERE rule_group = $group
)
SELECT session_id, mode, credentials, time AS applied_at, revoked_at
FROM ranked
WHERE place = 1 AND event IN ('applied', 'widened')
ORDER BY session_id
