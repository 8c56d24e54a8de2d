-- How log objects arrive at each place: the newest and the oldest arrival that the ledger knows, and the longest time without
-- one that ended on each of the eight days before the newest, in seconds.
WITH newest AS (
    SELECT location, MAX(arrived_at) AS newest, MIN(arrived_at) AS oldest
    FROM stored_objects
    WHERE arrived_at <= $now
    GROUP BY location
),
gaps AS (
    SELECT
        stored_objects.location,
        arrived_at,
        arrived_at - LAG(arrived_at) OVER (PARTITION BY stored_objects.location ORDER BY arrived_at) AS gap
    FROM stored_objects JOIN newest ON stored_objects.location = newest.location
    WHERE arrived_at <= $now AND arrived_at > newest.newest - INTERVAL '8 days'
)
SELECT
    newest.location,
    newest.newest,
    newest.oldest,
    CAST(EXTRACT(EPOCH FROM MAX(gap)) AS DOUBLE) AS longest
FROM newest JOIN gaps ON newest.location = gaps.location
GROUP BY newest.location, newest.newest, newest.oldest, DATE_TRUNC('day', arrived_at)
ORDER BY newest.location, DATE_TRUNC('day', arrived_at)
