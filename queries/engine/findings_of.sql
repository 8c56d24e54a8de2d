-- All findings of the candidates.
SELECT session_id, detector, window_start, window_end, score, strength, family, evidence, run_id
FROM findings
WHERE session_id IN (SELECT session_id FROM candidates)
ORDER BY session_id, window_end, detector
