-- The rows of one hour, folded as the view `deliveries` does it: what its whole partition of stored_deliveries becomes.
SELECT $hour AS hour, (SELECT MAX(batch) FROM stored_deliveries WHERE hour = $hour) AS batch, deliveries.*
FROM deliveries
WHERE minute >= $start AND minute < $end
