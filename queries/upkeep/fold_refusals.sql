-- The rows of one hour, folded as the view `refusals` does it: what its whole partition of stored_refusals becomes.
SELECT $hour AS hour, (SELECT MAX(batch) FROM stored_refusals WHERE hour = $hour) AS batch, refusals.*
FROM refusals
WHERE minute >= $start AND minute < $end
