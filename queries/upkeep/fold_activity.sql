-- The rows of one hour, folded as the view `activity` does it: what its whole partition of stored_activity becomes.
SELECT $hour AS hour, (SELECT MAX(batch) FROM stored_activity WHERE hour = $hour) AS batch, activity.*
FROM activity
WHERE minute >= $start AND minute < $end
