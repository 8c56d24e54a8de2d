-- What the forecast of the capacity needs: the automatic blocks that began since $since, and when the blocks of now end.
-- What people block comes in lists and has no rate.
SELECT
    COUNT(*) AS number,
    CAST(NULL AS TIMESTAMPTZ) AS ends_at,
    AVG(CAST(date_part('epoch', expires_at) - date_part('epoch', time) AS DOUBLE)) AS seconds
FROM revocations
WHERE event IN ('revoked', 'released') AND origin = 'auto' AND mode IN ('enforce', 'count') AND time > $since AND expires_at > time
UNION ALL
SELECT COUNT(*) AS number, expires_at AS ends_at, NULL AS seconds
FROM active_revocations
WHERE mode IN ('enforce', 'count')
GROUP BY expires_at
