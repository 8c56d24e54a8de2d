-- Sessions that were put into other groups than $group and never taken out of them.
WITH ranked AS (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY rule_group, session_id ORDER BY sequence DESC) AS place
    FROM enforcement
    WHERE rule_group <> $group
)
SELECT rule_group, COUNT(*) AS sessions
FROM ranked
WHERE place = 1 AND event <> 'lifted'
GROUP BY rule_group
ORDER BY rule_group
