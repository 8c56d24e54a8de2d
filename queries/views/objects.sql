-- objects: what became of each version of each log object; the word of the latest batch counts. Within a batch
-- `ingested` comes first: what follows says that the rows are lost. Never the clock: it can go backwards.
WITH ranked AS (
    SELECT
        *,
        ROW_NUMBER() OVER (PARTITION BY location, key, etag ORDER BY batch DESC, CASE WHEN status = 'ingested' THEN 1 ELSE 0 END) AS place
    FROM stored_objects
)
SELECT
    location, key, etag, digest, size, arrived_at, first_time, last_time, rows, rejected_rows, status, reason,
    ingested_at, batch, format
FROM ranked
WHERE place = 1
