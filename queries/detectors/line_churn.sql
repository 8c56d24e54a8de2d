-- [detector]
-- description = "One session that goes through many lines of many operators in the same minute, again and again"
-- family = "churn"
-- strength = "medium"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "a player on three uplinks of three operators at once, each with a pool that is not known as one"
--
-- [params]
-- # A minute counts when so many networks fetched new segments in it ...
-- min_networks = 5
-- # ... of so many operators. Carriers' pools, relays, servers and VPNs do not count: what is left are homes and offices, and one
-- # viewer is in one of them.
-- min_operators = 3
-- # Found from so many such minutes on.
-- min_minutes = 10
-- # Strong where so many of them have so many networks and operators: residential proxies that change with every request.
-- strong_networks = 6
-- strong_operators = 4
--
-- [needs]
-- networks = { several = "min_networks", in_minutes = ["min_minutes"] }
--
-- [least]
-- min_networks = 2
-- min_operators = 1
-- min_minutes = 1
--
-- [thresholds]
-- minutes = "min_minutes"
WITH lines AS (
    SELECT session_id, minute, asn, network
    FROM activity
    WHERE network IS NOT NULL AND asn IS NOT NULL AND network_type IS NULL AND segments > 0
    GROUP BY session_id, minute, asn, network
),
-- Of an operator an IPv4 address and an IPv6 network are one line.
per_operator AS (
    SELECT
        session_id,
        minute,
        asn,
        GREATEST(
            SUM(CASE WHEN network LIKE '%:%' THEN 1 ELSE 0 END),
            SUM(CASE WHEN network LIKE '%:%' THEN 0 ELSE 1 END)
        ) AS networks
    FROM lines
    GROUP BY session_id, minute, asn
),
minutes AS (
    SELECT session_id, minute, SUM(networks) AS networks, COUNT(*) AS operators
    FROM per_operator
    GROUP BY session_id, minute
    HAVING SUM(networks) >= $min_networks AND COUNT(*) >= $min_operators
)
SELECT
    session_id,
    COUNT(*) * 1.0 / $min_minutes AS score,
    CASE
        WHEN SUM(CASE WHEN networks >= $strong_networks AND operators >= $strong_operators THEN 1 ELSE 0 END) >= $min_minutes
            THEN 'strong'
        ELSE 'medium'
    END AS strength,
    COUNT(*) AS minutes,
    CAST(MAX(networks) AS BIGINT) AS most_networks,
    MAX(operators) AS most_operators
FROM minutes
GROUP BY session_id
HAVING COUNT(*) >= $min_minutes
