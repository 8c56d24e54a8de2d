-- All findings of the candidates: what the view `findings` says, without ranking those of everybody else.
WITH ranked AS (
    SELECT
        *,
        ROW_NUMBER() OVER (
            PARTITION BY session_id, detector, window_start, window_end
            ORDER BY evaluation DESC
        ) AS place
    FROM stored_findings
    WHERE session_id IN (SELECT session_id FROM candidates)
)
SELECT session_id, detector, window_start, window_end, score, strength, family, evidence, run_id
FROM ranked
WHERE place = 1 AND score IS NOT NULL
ORDER BY session_id, window_end, detector
