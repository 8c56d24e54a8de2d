-- The bytes of everything that was ingested, and under which names; but for what a later word in the same batch gave up, which can be
-- read again. Where that word has a digest a part was written: its bytes stay known, its name may have others.
WITH lost AS (
    SELECT location, key, etag, batch, MAX(digest) AS digest
    FROM stored_objects
    WHERE status = 'quarantined'
    GROUP BY location, key, etag, batch
)
SELECT
    stored_objects.location,
    CASE WHEN lost.key IS NULL THEN stored_objects.key END AS key,
    stored_objects.digest
FROM stored_objects
LEFT JOIN lost
    ON lost.location = stored_objects.location
    AND lost.key = stored_objects.key
    AND lost.etag = stored_objects.etag
    AND lost.batch = stored_objects.batch
WHERE stored_objects.status = 'ingested'
    AND stored_objects.digest IS NOT NULL
    AND (lost.key IS NULL OR lost.digest IS NOT NULL)
