-- How many sessions were active in the minutes that were evaluated.
SELECT COUNT(DISTINCT session_id) AS sessions
FROM activity
WHERE minute IN (SELECT minute FROM evaluated_minutes)
