-- How many sessions were active in the minutes that were evaluated. Partial sums need not be folded for that.
SELECT COUNT(DISTINCT session_id) AS sessions
FROM stored_activity
WHERE minute IN (SELECT minute FROM evaluated_minutes)
    -- Files of other hours need not be opened.
    AND minute >= $start AND minute < $end
