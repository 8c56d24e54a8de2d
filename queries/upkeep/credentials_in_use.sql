-- The sessions that are blocked and have credentials that were last seen before $before: a person may block for as long as he likes.
SELECT DISTINCT credentials.session_id
FROM credentials
JOIN active_revocations ON active_revocations.session_id = credentials.session_id
WHERE credentials.last_seen < $before
