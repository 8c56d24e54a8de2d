-- objects: what became of each version of each log object; the latest word on it counts.
WITH ranked AS (
    SELECT
        *,
        ROW_NUMBER() OVER (PARTITION BY location, key, etag ORDER BY ingested_at DESC, batch DESC) AS place
    FROM stored_objects
)
SELECT
    location, key, etag, digest, size, arrived_at, first_time, last_time, rows, rejected_rows, status, reason,
    ingested_at, batch
FROM ranked
WHERE place = 1
