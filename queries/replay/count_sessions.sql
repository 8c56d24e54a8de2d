-- How many sessions were seen.
SELECT COUNT(DISTINCT session_id) AS sessions
FROM stored_activity
