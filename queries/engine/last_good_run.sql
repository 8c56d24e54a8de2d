-- When the last run began that read all there was, up to $now.
SELECT MAX(started_at) AS started_at
FROM runs
WHERE outcome <> 'failed' AND started_at <= $now
