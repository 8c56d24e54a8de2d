-- Sessions that were put into other groups than $group and never taken out of them.
SELECT rule_group, COUNT(*) AS sessions
FROM enforcement
WHERE event <> 'lifted' AND sequence IN (
    SELECT MAX(sequence) FROM enforcement WHERE rule_group <> $group GROUP BY rule_group, session_id
)
GROUP BY rule_group
ORDER BY rule_group
