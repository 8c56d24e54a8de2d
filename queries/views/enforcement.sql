-- enforcement: when each session came into the rules of a group, and out of them.
SELECT time, sequence, event, session_id, mode, credentials, revoked_at, rule_group, run_id
FROM stored_enforcement
