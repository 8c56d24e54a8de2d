-- Rolls the refused requests of some log objects up to rows of the stored table `refusals`.
-- In:  requests, of whole log objects.
-- Out: the columns of stored_refusals without batch. Of each object and minute the 100 most refused ids
--      (ties by id) have rows of their own, the rest share one: an attacker must not fill the table.
WITH refused AS (
    SELECT object, date_trunc('minute', time) AS minute, session_id, network, COUNT(*) AS requests
    FROM requests
    WHERE refused
    GROUP BY object, date_trunc('minute', time), session_id, network
),
per_session AS (
    SELECT object, minute, session_id, SUM(requests) AS requests
    FROM refused
    WHERE session_id IS NOT NULL
    GROUP BY object, minute, session_id
),
ranked AS (
    SELECT object, minute, session_id,
        ROW_NUMBER() OVER (PARTITION BY object, minute ORDER BY requests DESC, session_id) AS place
    FROM per_session
),
named AS (
    -- The id of the 100 most refused, null for all others.
    SELECT refused.object, refused.minute, ranked.session_id, refused.network, SUM(refused.requests) AS requests
    FROM refused
    LEFT JOIN ranked
        ON ranked.object = refused.object
        AND ranked.minute = refused.minute
        AND ranked.session_id = refused.session_id
        AND ranked.place <= 100
    GROUP BY refused.object, refused.minute, ranked.session_id, refused.network
)
SELECT
    substr(CAST(date_trunc('hour', minute) AS VARCHAR), 1, 13) AS hour,
    minute,
    session_id,
    CAST(SUM(requests) AS BIGINT) AS requests,
    COUNT(network) AS networks
FROM named
GROUP BY minute, session_id
