-- The bytes of everything that was ingested, and under which names; but for what a later word in the same batch gave up as a whole, which
-- can be read again. One with a digest gave up a part.
WITH lost AS (
    SELECT DISTINCT location, key, etag, batch
    FROM stored_objects
    WHERE status = 'quarantined' AND digest IS NULL
)
SELECT stored_objects.location, stored_objects.key, stored_objects.digest
FROM stored_objects
LEFT JOIN lost
    ON lost.location = stored_objects.location
    AND lost.key = stored_objects.key
    AND lost.etag = stored_objects.etag
    AND lost.batch = stored_objects.batch
WHERE stored_objects.status = 'ingested' AND stored_objects.digest IS NOT NULL AND lost.key IS NULL
