-- Every version of every log object that was looked at.
SELECT location, key, etag, digest, status, batch
FROM objects
