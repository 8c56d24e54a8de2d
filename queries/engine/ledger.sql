-- Every word on the versions of log objects that can be listed still; the last one of each counts. What holds no request of $from
-- or later, and arrived and was looked at before it, is not listed any more; what was not read has no times.
SELECT location, key, etag, digest, status, batch
FROM stored_objects
WHERE arrived_at >= $from OR last_time >= $from OR last_time IS NULL OR ingested_at >= $from
