-- Every finding, in the order in which a run would have met them.
SELECT session_id, detector, window_start, window_end, score, strength, family, evidence, run_id
FROM findings
ORDER BY window_end, session_id, detector
