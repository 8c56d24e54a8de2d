-- When the last run began that read all there was, up to $now; where none did, the first of all: what came since may be unread.
SELECT COALESCE(MAX(CASE WHEN outcome <> 'failed' THEN started_at END), MIN(started_at)) AS started_at
FROM runs
WHERE started_at <= $now
