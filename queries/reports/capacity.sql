-- The rule group over time, from $since to $until: a row for each change that was confirmed.
SELECT time, rule_group, rules, sessions, wcu, foreign_wcu, capacity, left_out
FROM syncs
WHERE event = 'confirmed' AND time > $since AND time <= $until
ORDER BY sequence
