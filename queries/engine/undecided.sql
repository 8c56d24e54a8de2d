-- The findings that no decision has seen: those of detections after $after.
SELECT DISTINCT session_id, detector, window_start, window_end
FROM stored_findings
WHERE evaluation > $after AND score IS NOT NULL
