-- The sessions that are in the rules of the group $group, as far as is recorded, and since when they are with all that WAF matches.
SELECT session_id, mode, credentials, time AS applied_at, revoked_at
FROM enforcement
WHERE event IN ('applied', 'widened') AND sequence IN (
    SELECT MAX(sequence) FROM enforcement WHERE rule_group = $group GROUP BY session_id
)
ORDER BY session_id
