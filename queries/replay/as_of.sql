-- The rows of a stored table that had come by then: of each session in `cutoffs` those of batches until its own, of all others
-- every one.
SELECT uncut.*
FROM uncut
LEFT JOIN cutoffs ON cutoffs.session_id = uncut.session_id
WHERE cutoffs.batch IS NULL OR uncut.batch <= cutoffs.batch
