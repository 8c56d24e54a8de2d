-- The objects whose rows belong to batch $batch.
SELECT location, key, etag, digest, size, arrived_at
FROM objects
WHERE batch = $batch AND status = 'ingested'
ORDER BY location, key
