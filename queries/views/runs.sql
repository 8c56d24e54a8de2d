-- runs: one row per run.
SELECT run_id, started_at, outcome, summary
FROM stored_runs
