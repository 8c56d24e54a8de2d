-- Findings of windows that end in ($after, $until].
SELECT session_id, detector, window_start, window_end, score, strength, family, evidence, run_id
FROM findings
WHERE window_end > $after AND window_end <= $until
