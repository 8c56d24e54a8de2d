-- What the logs show of the blocks that were put into WAF from $since to $until: the first refusal and the last accepted request
-- after it took effect. Refusals are known by the minute, and of the 100 most refused ids of a log object and minute.
WITH stays AS (
    SELECT
        session_id, mode, event, revoked_at, time AS applied_at,
        LEAD(time) OVER (PARTITION BY rule_group, session_id ORDER BY sequence) AS lifted_at
    FROM enforcement
    WHERE event IN ('applied', 'lifted')
),
blocks AS (
    SELECT session_id, revoked_at, applied_at, lifted_at
    FROM stays
    WHERE event = 'applied' AND mode = 'enforce' AND applied_at > $since AND applied_at <= $until
),
refused AS (
    SELECT blocks.session_id, blocks.applied_at, MIN(refusals.minute) AS minute, SUM(refusals.requests) AS requests
    FROM blocks
    JOIN refusals ON refusals.session_id = blocks.session_id
    WHERE refusals.minute + INTERVAL '1 minute' > blocks.applied_at
        AND (blocks.lifted_at IS NULL OR refusals.minute < blocks.lifted_at)
    GROUP BY blocks.session_id, blocks.applied_at
),
accepted AS (
    SELECT blocks.session_id, blocks.applied_at, MAX(activity.last_seen) AS last_accepted
    FROM blocks
    JOIN activity ON activity.session_id = blocks.session_id
    WHERE activity.last_seen > blocks.applied_at
        AND (blocks.lifted_at IS NULL OR activity.last_seen <= blocks.lifted_at)
    GROUP BY blocks.session_id, blocks.applied_at
)
SELECT
    blocks.session_id,
    blocks.revoked_at,
    blocks.applied_at,
    CASE WHEN refused.minute < blocks.applied_at THEN blocks.applied_at ELSE refused.minute END AS first_refused,
    CAST(
        date_part('epoch', CASE WHEN refused.minute < blocks.applied_at THEN blocks.applied_at ELSE refused.minute END)
        - date_part('epoch', blocks.revoked_at) AS BIGINT
    ) AS seconds_to_effect,
    CAST(refused.requests AS BIGINT) AS refused_requests,
    accepted.last_accepted,
    CAST(date_part('epoch', accepted.last_accepted) - date_part('epoch', blocks.applied_at) AS BIGINT) AS seconds_served_after,
    blocks.lifted_at
FROM blocks
LEFT JOIN refused ON refused.session_id = blocks.session_id AND refused.applied_at = blocks.applied_at
LEFT JOIN accepted ON accepted.session_id = blocks.session_id AND accepted.applied_at = blocks.applied_at
ORDER BY blocks.applied_at, blocks.session_id
