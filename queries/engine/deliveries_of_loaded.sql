-- Deliveries of [$start, $end) of the sessions at hand, as bound as what is at hand of them, in order of time.
SELECT deliveries.*
FROM deliveries
INNER JOIN (SELECT DISTINCT session_id, bound FROM loaded_activity) AS kept
    ON kept.session_id = deliveries.session_id AND kept.bound = deliveries.bound
WHERE deliveries.minute >= $start AND deliveries.minute < $end
ORDER BY deliveries.minute
