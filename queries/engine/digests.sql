-- The bytes of everything that was ingested.
SELECT digest
FROM stored_objects
WHERE status = 'ingested' AND digest IS NOT NULL
