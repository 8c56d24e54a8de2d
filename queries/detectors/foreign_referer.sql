-- [detector]
-- description = "One session embedded in somebody else's pages"
-- family = "referer"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "all"
-- false_positives = "a partner's page that is not in the list own_referers yet"
--
-- [params]
-- # Segments with a foreign referer from which on a session is found ...
-- min_segments = 20
-- # ... if so many networks fetched them.
-- min_networks = 3
-- # Without a list of one's own: a host is foreign when less than this share of the sessions with a referer name it.
-- max_share = 0.05
--
-- [needs]
-- networks = "min_networks"
--
-- [least]
-- min_segments = 1
-- min_networks = 1
--
-- [thresholds]
-- segments = "min_segments"
-- networks = "min_networks"
WITH referers AS (
    SELECT session_id, referer_host, network, COALESCE(CAST(MIN(asn) AS VARCHAR), network) AS operator, SUM(segments) AS segments
    FROM activity
    WHERE referer_host IS NOT NULL AND network IS NOT NULL
    GROUP BY session_id, referer_host, network
),
own AS (
    SELECT LOWER(value) AS host FROM own_referers
),
listed AS (
    SELECT COUNT(*) AS hosts FROM own
),
foreign_hosts AS (
    SELECT referer_hosts.referer_host
    FROM referer_hosts
    CROSS JOIN listed
    LEFT JOIN own ON referer_hosts.referer_host = own.host OR referer_hosts.referer_host LIKE '%.' || own.host
    -- An app's pages are on the device itself, and nobody's site is in a private network (RFC 1918, RFC 6761).
    WHERE referer_hosts.referer_host LIKE '%.%'
        AND NOT (
            TRY_CAST(REPLACE(referer_hosts.referer_host, '.', '') AS BIGINT) IS NOT NULL
            AND (
                referer_hosts.referer_host LIKE '127.%' OR referer_hosts.referer_host LIKE '10.%'
                OR referer_hosts.referer_host LIKE '192.168.%' OR referer_hosts.referer_host LIKE '169.254.%'
            )
        )
    GROUP BY referer_hosts.referer_host
    HAVING COUNT(own.host) = 0
        AND (MAX(listed.hosts) > 0 OR MAX(referer_hosts.sessions) < $max_share * MAX(referer_hosts.all_sessions))
)
SELECT
    referers.session_id,
    SUM(referers.segments) * 1.0 / $min_segments AS score,
    -- One operator's addresses may be a pool that is not known as one.
    CASE WHEN MIN(referers.operator) <> MAX(referers.operator) THEN 'medium' ELSE 'weak' END AS strength,
    MIN(referers.referer_host) AS first_referer,
    MAX(referers.referer_host) AS last_referer,
    COUNT(DISTINCT referers.network) AS networks,
    CAST(SUM(referers.segments) AS BIGINT) AS segments
FROM referers
INNER JOIN foreign_hosts ON foreign_hosts.referer_host = referers.referer_host
GROUP BY referers.session_id
HAVING SUM(referers.segments) >= $min_segments AND COUNT(DISTINCT referers.network) >= $min_networks
