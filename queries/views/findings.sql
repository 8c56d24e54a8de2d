-- findings: the latest evaluation per session, detector and window. An evaluation that no longer finds a
-- session is stored with a null score, and takes the finding away.
WITH ranked AS (
    SELECT
        *,
        ROW_NUMBER() OVER (
            PARTITION BY session_id, detector, window_start, window_end
            ORDER BY evaluation DESC
        ) AS place
    FROM stored_findings
)
SELECT session_id, detector, window_start, window_end, score, strength, family, evidence, run_id
FROM ranked
WHERE place = 1 AND score IS NOT NULL
