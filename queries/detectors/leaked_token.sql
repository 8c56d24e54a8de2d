-- [detector]
-- description = "One session or key that the edge refused from several networks at once"
-- family = "refusals"
-- strength = "weak"
-- window = "30m"
-- every = "5m"
-- ttl = "1h"
-- scope = "session"
-- false_positives = "somebody who tries another viewer's id, which the viewer cannot help: so this reports and blocks nobody"
--
-- [params]
-- # Networks that were refused in one minute, beyond which it is found. A viewer whose address has changed under a key that
-- # is bound to it is refused from one network; rows of several edge servers may count it two or three times.
-- max_networks = 3
--
-- [least]
-- max_networks = 1
--
-- [thresholds]
-- networks = "max_networks"
SELECT
    session_id,
    MAX(networks) * 1.0 / $max_networks AS score,
    MAX(networks) AS networks,
    COUNT(*) AS minutes,
    CAST(SUM(requests) AS BIGINT) AS requests
FROM refusals
WHERE session_id IS NOT NULL
GROUP BY session_id
HAVING MAX(networks) > $max_networks
