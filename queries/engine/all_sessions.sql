-- Every session that was seen: replay takes its candidates from here.
SELECT DISTINCT session_id
FROM stored_activity
