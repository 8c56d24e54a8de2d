-- Which networks fetched what of the candidates, minute by minute, in the first six hours of each.
WITH begun AS (
    SELECT session_id, MIN(minute) AS minute
    FROM activity
    WHERE session_id IN (SELECT session_id FROM candidates) AND segments > 0
    GROUP BY session_id
)
SELECT
    activity.session_id,
    activity.network,
    activity.country,
    activity.asn,
    activity.network_type,
    activity.minute,
    CAST(SUM(activity.segments) AS BIGINT) AS segments
FROM activity
INNER JOIN begun ON begun.session_id = activity.session_id
WHERE activity.segments > 0 AND activity.minute <= begun.minute + INTERVAL '6' HOUR
GROUP BY activity.session_id, activity.network, activity.country, activity.asn, activity.network_type, activity.minute
ORDER BY activity.session_id, activity.minute, activity.network
