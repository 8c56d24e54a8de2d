-- When the objects that were counted arrived, with the end of their requests.
SELECT batch, arrived_at, first_time, last_time
FROM objects
WHERE status = 'ingested' AND last_time IS NOT NULL
