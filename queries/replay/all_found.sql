-- Every session of which a detector found anything: replay takes its candidates from here.
SELECT DISTINCT session_id
FROM findings
