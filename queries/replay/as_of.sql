-- The rows of a stored table that had come by then: of each session in `cutoffs` those of batches until its own, under each of the
-- names that it has there, of all others every one.
SELECT uncut.* REPLACE (COALESCE(cutoffs.name, uncut.session_id) AS session_id)
FROM uncut
LEFT JOIN cutoffs ON cutoffs.session_id = uncut.session_id
WHERE cutoffs.batch IS NULL OR uncut.batch <= cutoffs.batch
