-- How long it took to block, of each automatic block that was decided from $since to $until: from the beginning of the window that
-- decided (as far as this decision goes, the sharing is no older) and from its end to the decision, and on to WAF and to the first
-- refusal that the logs show. The end of a window may lie behind the decision: it need not be over.
WITH blocks AS (
    SELECT time AS decided_at, session_id, detector, score, strength, window_start, window_end, run_id
    FROM revocations
    WHERE event IN ('revoked', 'released') AND origin = 'auto' AND time > $since AND time <= $until
),
applied AS (
    SELECT blocks.session_id, blocks.decided_at, MIN(enforcement.time) AS applied_at
    FROM blocks
    JOIN enforcement ON enforcement.session_id = blocks.session_id
    WHERE enforcement.event = 'applied' AND enforcement.time >= blocks.decided_at
    GROUP BY blocks.session_id, blocks.decided_at
),
refused AS (
    SELECT applied.session_id, applied.decided_at, MIN(refusals.minute) AS minute
    FROM applied
    JOIN refusals ON refusals.session_id = applied.session_id
    WHERE refusals.minute + INTERVAL '1 minute' > applied.applied_at
    GROUP BY applied.session_id, applied.decided_at
)
SELECT
    blocks.session_id,
    blocks.detector,
    blocks.score,
    blocks.window_start,
    blocks.window_end,
    blocks.decided_at,
    applied.applied_at,
    CASE WHEN refused.minute < applied.applied_at THEN applied.applied_at ELSE refused.minute END AS first_refused,
    CAST(date_part('epoch', blocks.decided_at) - date_part('epoch', blocks.window_start) AS BIGINT) AS seconds_from_window_start,
    CAST(date_part('epoch', blocks.decided_at) - date_part('epoch', blocks.window_end) AS BIGINT) AS seconds_from_window_end,
    CAST(date_part('epoch', applied.applied_at) - date_part('epoch', blocks.decided_at) AS BIGINT) AS seconds_to_waf
FROM blocks
LEFT JOIN applied ON applied.session_id = blocks.session_id AND applied.decided_at = blocks.decided_at
LEFT JOIN refused ON refused.session_id = blocks.session_id AND refused.decided_at = blocks.decided_at
ORDER BY blocks.decided_at, blocks.session_id
