-- Deliveries of [$start, $end) that belong to the activity at hand (what the allow-list takes out of it is gone here, too).
SELECT deliveries.*
FROM deliveries
INNER JOIN (SELECT DISTINCT session_id, bound, network, minute FROM loaded_activity) AS kept
    ON kept.session_id = deliveries.session_id
    AND kept.bound = deliveries.bound
    AND kept.minute = deliveries.minute
    AND kept.network IS NOT DISTINCT FROM deliveries.network
WHERE deliveries.minute >= $start AND deliveries.minute < $end
