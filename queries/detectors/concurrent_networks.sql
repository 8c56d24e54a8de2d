-- [detector]
-- description = "One session, several networks that fetch more than one viewer could watch, in the same minutes"
-- family = "concurrency"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "all"
-- false_positives = "one viewer on two connections with a player that fetches every segment through both; players that fetch several streams for one picture"
--
-- [params]
-- # A network is active in a minute when it fetched so many new segments.
-- min_segments = 2
-- # A minute counts when at least so many streams were fetched in it: the lesser of its active networks and of its segments
-- # over the pace of one viewer. A handover, a carrier's address pool, a relay or a race of IPv4 and IPv6 is one stream.
-- min_streams = 1.7
-- # Found from so many such minutes on.
-- min_minutes = 8
-- # Strong from so many streams on, of two operators, ...
-- strong_streams = 2.3
-- # ... in so many minutes.
-- strong_minutes = 5
-- # Networks of two operators on the same content are one viewer on two lines, with a player of other segments than those of the rest, and
-- # weak, where less than this share of the segments went to more than one ...
-- min_copied = 0.1
-- # ... of so many that are recorded (one in eight).
-- min_recorded = 8
--
-- [needs]
-- networks = { several = 2, in_minutes = ["min_minutes", "strong_minutes"] }
--
-- [least]
-- min_minutes = 1
-- strong_minutes = 1
--
-- [thresholds]
-- minutes = "min_minutes"
-- full_minutes = "strong_minutes"
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
        session_id, minute, SUM(networks) AS networks, COUNT(*) AS operators, SUM(segments) AS segments,
        -- Of one operator it may be a pool that is not known as one, and somebody who downloads; of unknown ones, too.
        CASE WHEN COUNT(*) >= 2 THEN 1 ELSE 0 END AS apart,
        CASE WHEN MIN(operator) = 'unknown' THEN 1 ELSE 0 END AS unknown
    FROM per_operator
    GROUP BY session_id, minute
    HAVING SUM(networks) >= 2
),
streams AS (
    SELECT
        minutes.session_id,
        minutes.operators,
        minutes.networks,
        minutes.apart,
        minutes.unknown,
        LEAST(minutes.networks, minutes.segments / pace.segments_per_minute) AS streams
    FROM minutes
    INNER JOIN pace ON pace.session_id = minutes.session_id
),
found AS (
    SELECT
        session_id,
        COUNT(*) AS minutes,
        SUM(CASE WHEN streams >= $strong_streams AND apart = 1 THEN 1 ELSE 0 END) AS full_minutes,
        MAX(streams) AS most_streams,
        AVG(streams) AS streams,
        MAX(networks) AS most_networks,
        MAX(operators) AS most_operators,
        MAX(unknown) AS unknown
    FROM streams
    WHERE streams >= $min_streams
    GROUP BY session_id
    HAVING COUNT(*) >= $min_minutes
        OR SUM(CASE WHEN streams >= $strong_streams AND apart = 1 THEN 1 ELSE 0 END) >= $strong_minutes
),
-- What of the recorded segments went to more than one network.
delivered AS (
    SELECT session_id, segment, network
    FROM deliveries
    WHERE network IS NOT NULL
    GROUP BY session_id, segment, network
),
segments AS (
    SELECT session_id, segment, COUNT(*) AS networks
    FROM delivered
    GROUP BY session_id, segment
),
copies AS (
    SELECT session_id, COUNT(*) AS recorded, SUM(CASE WHEN networks > 1 THEN 1 ELSE 0 END) AS copied
    FROM segments
    GROUP BY session_id
),
-- What each network fetched most of.
ranked AS (
    SELECT
        session_id, network, content,
        ROW_NUMBER() OVER (PARTITION BY session_id, network ORDER BY SUM(segments) DESC, content) AS place
    FROM activity
    WHERE network IS NOT NULL AND content IS NOT NULL AND segments > 0
    GROUP BY session_id, network, content
),
watched AS (
    SELECT session_id, CASE WHEN MIN(content) = MAX(content) THEN 1 ELSE 0 END AS same
    FROM ranked
    WHERE place = 1
    GROUP BY session_id
)
SELECT
    found.session_id,
    GREATEST(found.minutes * 1.0 / $min_minutes, found.full_minutes * 1.0 / $strong_minutes) AS score,
    CASE
        WHEN found.most_operators <= 2 AND watched.same = 1 AND copies.recorded >= $min_recorded
            AND copies.copied < $min_copied * copies.recorded THEN 'weak'
        WHEN found.full_minutes >= $strong_minutes THEN 'strong'
        -- Two networks of one operator may be one line, or a pool that is not known as one.
        WHEN found.most_operators = 1 AND found.unknown = 0 THEN 'weak'
        ELSE 'medium'
    END AS strength,
    found.minutes,
    CAST(found.full_minutes AS BIGINT) AS full_minutes,
    found.most_streams,
    found.streams,
    CAST(found.most_networks AS BIGINT) AS most_networks,
    found.most_operators,
    CAST(COALESCE(copies.copied, 0) AS BIGINT) AS copied,
    CAST(COALESCE(copies.recorded, 0) AS BIGINT) AS recorded
FROM found
LEFT JOIN copies ON copies.session_id = found.session_id
LEFT JOIN watched ON watched.session_id = found.session_id
