-- [detector]
-- description = "One session watched from servers and VPN exits"
-- family = "origin"
-- strength = "weak"
-- window = "1h"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "a viewer behind a VPN or a company's proxy, monitoring probes, advertisement servers"
--
-- [params]
-- # Segments fetched from servers from which on a session is found.
-- min_segments = 50
-- # Medium from so many servers on, one after the other ...
-- medium_servers = 8
-- # ... for so many minutes each at most, as a mean: who tries the exits of a VPN finds one in the end, and a VPN that changes its exits by
-- # itself stays longer at each ...
-- minutes_each = 4.0
-- # ... that is so many at once in a minute at most, as a mean: a company's way to the Internet has many, and takes another one for each
-- # connection ...
-- max_at_once = 3.0
-- # ... but never so many in all.
-- crowd_servers = 48
-- # A server counts among these when it fetched so many new segments.
-- segments_each = 3
--
-- [least]
-- min_segments = 1
-- medium_servers = 1
-- crowd_servers = 1
--
-- [thresholds]
-- segments = "min_segments"
WITH minutes AS (
    SELECT session_id, network, asn, minute, SUM(segments) AS segments
    FROM activity
    WHERE network_type IN ('hosting', 'vpn')
    GROUP BY session_id, network, asn, minute
),
servers AS (
    SELECT
        session_id,
        network,
        MIN(asn) AS asn,
        COUNT(*) AS minutes,
        SUM(segments) AS segments
    FROM minutes
    WHERE segments > 0
    GROUP BY session_id, network
),
active_minutes AS (
    SELECT session_id, COUNT(*) AS minutes
    FROM (SELECT DISTINCT session_id, minute FROM minutes WHERE segments > 0) AS active
    GROUP BY session_id
),
totals AS (
    SELECT
        session_id,
        COUNT(*) AS servers,
        SUM(CASE WHEN segments >= $segments_each THEN 1 ELSE 0 END) AS busy,
        SUM(minutes) AS server_minutes,
        MIN(asn) AS first_asn,
        MAX(asn) AS last_asn,
        SUM(segments) AS segments
    FROM servers
    GROUP BY session_id
    HAVING SUM(segments) >= $min_segments
)
SELECT
    totals.session_id,
    totals.segments * 1.0 / $min_segments AS score,
    CASE
        WHEN totals.busy >= $medium_servers
            AND active_minutes.minutes <= $minutes_each * totals.busy
            AND totals.server_minutes <= $max_at_once * active_minutes.minutes THEN 'medium'
        WHEN totals.servers >= $crowd_servers THEN 'medium'
        ELSE 'weak'
    END AS strength,
    totals.servers,
    totals.server_minutes * 1.0 / active_minutes.minutes AS at_once,
    totals.first_asn,
    totals.last_asn,
    CAST(totals.segments AS BIGINT) AS segments
FROM totals
INNER JOIN active_minutes ON active_minutes.session_id = totals.session_id
