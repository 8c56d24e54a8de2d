-- [detector]
-- description = "One session fetches several times faster than one viewer watches, over several networks"
-- family = "rate"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "all"
-- false_positives = "downloads for later over two connections, skipping through a stream on the way"
--
-- [params]
-- # A minute counts when so many times the pace of one viewer was fetched in it ...
-- min_overrun = 2.5
-- # ... by so many networks, each with so many new segments; a carrier's pool is one, so are relays and VPNs, and so is a line with IPv4 and IPv6.
-- min_networks = 3
-- min_segments = 2
-- # Found from so many such minutes on.
-- min_minutes = 6
--
-- [needs]
-- networks = { several = "min_networks", in_minutes = ["min_minutes"] }
--
-- [least]
-- min_minutes = 1
-- min_networks = 1
--
-- [thresholds]
-- minutes = "min_minutes"
WITH active AS (
    SELECT
        session_id,
        minute,
        network,
        -- Relays and VPNs together are one unknown place.
        CASE
            WHEN MIN(network_type) IN ('relay', 'vpn') THEN 'anonymous'
            ELSE COALESCE(CAST(MIN(asn) AS VARCHAR), 'unknown')
        END AS operator,
        MIN(network_type) AS network_type,
        SUM(segments) AS segments
    FROM activity
    WHERE network IS NOT NULL AND segments > 0
    GROUP BY session_id, minute, network
),
-- Of an operator: a carrier's pool is one network, and so are an IPv4 address and an IPv6 network of one line.
per_operator AS (
    SELECT
        session_id,
        minute,
        operator,
        CASE
            WHEN operator = 'anonymous' OR MIN(network_type) = 'mobile' THEN 1
            ELSE GREATEST(
                SUM(CASE WHEN segments >= $min_segments AND network LIKE '%:%' THEN 1 ELSE 0 END),
                SUM(CASE WHEN segments >= $min_segments AND network NOT LIKE '%:%' THEN 1 ELSE 0 END)
            )
        END AS networks,
        SUM(segments) AS segments
    FROM active
    GROUP BY session_id, minute, operator
),
minutes AS (
    SELECT
        session_id, minute, CAST(SUM(networks) AS BIGINT) AS networks, SUM(segments) AS segments,
        -- Of one operator it may be a pool that is not known as one, and somebody who downloads; of unknown ones, too.
        CASE WHEN SUM(CASE WHEN networks > 0 THEN 1 ELSE 0 END) >= 2 THEN 1 ELSE 0 END AS apart
    FROM per_operator
    GROUP BY session_id, minute
    HAVING SUM(networks) >= $min_networks
)
SELECT
    minutes.session_id,
    AVG(minutes.segments / pace.segments_per_minute) / $min_overrun AS score,
    CASE WHEN SUM(minutes.apart) >= $min_minutes THEN 'medium' ELSE 'weak' END AS strength,
    COUNT(*) AS minutes,
    AVG(minutes.segments / pace.segments_per_minute) AS times_real_time,
    MAX(pace.segments_per_minute) AS pace,
    MAX(minutes.networks) AS most_networks,
    CAST(SUM(minutes.segments) AS BIGINT) AS segments
FROM minutes
INNER JOIN pace ON pace.session_id = minutes.session_id
WHERE minutes.segments >= $min_overrun * pace.segments_per_minute
GROUP BY minutes.session_id
HAVING COUNT(*) >= $min_minutes
