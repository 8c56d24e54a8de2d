-- The bytes of everything that was ingested, and under which names. What a later word took back was not.
SELECT location, key, digest
FROM objects
WHERE status = 'ingested' AND digest IS NOT NULL
