-- The last batch that the ledger has begun.
SELECT COALESCE(MAX(batch), 0) AS batch
FROM stored_objects
