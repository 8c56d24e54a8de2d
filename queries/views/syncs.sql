-- syncs: what was put into a rule group.
SELECT
    time, sequence, event, rule_group, fingerprint, kept, rules, sessions, wcu, foreign_wcu, capacity, left_out, run_id
FROM stored_syncs
