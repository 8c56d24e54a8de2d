-- How long it took to block, of each automatic block that was decided from $since to $until in mode enforce: from the first minute since
-- the session's block before in which two networks used it (null: what is kept of `activity` has none), and from the beginning and the
-- end of the window that decided, to the decision; and on to WAF and to the first refusal that the logs show, before the session's
-- next block. The end of a window may lie behind the decision: it need not be over.
WITH begun AS (
    SELECT
        time AS decided_at, session_id, detector, score, strength, window_start, window_end, origin, mode,
        LAG(time) OVER (PARTITION BY session_id ORDER BY sequence) AS last_at,
        LEAD(time) OVER (PARTITION BY session_id ORDER BY sequence) AS next_at
    FROM revocations
    WHERE event IN ('revoked', 'released')
),
blocks AS (
    SELECT *
    FROM begun
    WHERE origin = 'auto' AND mode = 'enforce' AND decided_at > $since AND decided_at <= $until
),
shared_minutes AS (
    SELECT session_id, minute
    FROM activity
    WHERE session_id IN (SELECT session_id FROM blocks)
    GROUP BY session_id, minute
    HAVING COUNT(DISTINCT network) > 1
),
shared AS (
    SELECT blocks.session_id, blocks.decided_at, MIN(shared_minutes.minute) AS shared_at
    FROM blocks
    JOIN shared_minutes ON shared_minutes.session_id = blocks.session_id
    WHERE shared_minutes.minute <= blocks.decided_at AND (blocks.last_at IS NULL OR shared_minutes.minute > blocks.last_at)
    GROUP BY blocks.session_id, blocks.decided_at
),
applied AS (
    SELECT blocks.session_id, blocks.decided_at, blocks.next_at, MIN(enforcement.time) AS applied_at
    FROM blocks
    JOIN enforcement ON enforcement.session_id = blocks.session_id
    WHERE enforcement.event = 'applied' AND enforcement.time >= blocks.decided_at
        AND (blocks.next_at IS NULL OR enforcement.time < blocks.next_at)
    GROUP BY blocks.session_id, blocks.decided_at, blocks.next_at
),
refused AS (
    SELECT applied.session_id, applied.decided_at, MIN(refusals.minute) AS minute
    FROM applied
    JOIN refusals ON refusals.session_id = applied.session_id
    WHERE refusals.minute + INTERVAL '1 minute' > applied.applied_at
        AND (applied.next_at IS NULL OR refusals.minute < applied.next_at)
    GROUP BY applied.session_id, applied.decided_at
)
SELECT
    blocks.session_id,
    blocks.detector,
    blocks.score,
    shared.shared_at,
    blocks.window_start,
    blocks.window_end,
    blocks.decided_at,
    applied.applied_at,
    CASE WHEN refused.minute < applied.applied_at THEN applied.applied_at ELSE refused.minute END AS first_refused,
    CAST(date_part('epoch', blocks.decided_at) - date_part('epoch', shared.shared_at) AS BIGINT) AS seconds_from_sharing,
    CAST(date_part('epoch', blocks.decided_at) - date_part('epoch', blocks.window_start) AS BIGINT) AS seconds_from_window_start,
    CAST(date_part('epoch', blocks.decided_at) - date_part('epoch', blocks.window_end) AS BIGINT) AS seconds_from_window_end,
    CAST(date_part('epoch', applied.applied_at) - date_part('epoch', blocks.decided_at) AS BIGINT) AS seconds_to_waf
FROM blocks
LEFT JOIN shared ON shared.session_id = blocks.session_id AND shared.decided_at = blocks.decided_at
LEFT JOIN applied ON applied.session_id = blocks.session_id AND applied.decided_at = blocks.decided_at
LEFT JOIN refused ON refused.session_id = blocks.session_id AND refused.decided_at = blocks.decided_at
ORDER BY blocks.decided_at, blocks.session_id
