-- Where sessions stand that are in the table `asked` or blocked by way of DynamoDB: the events of each.
SELECT
    time, sequence, event, session_id, detector, score, strength, evidence, reason, origin, actor, mode,
    window_start, window_end, expires_at, run_id
FROM revocations
WHERE session_id IN (SELECT session_id FROM asked)
    OR session_id IN (SELECT session_id FROM revocations WHERE origin = 'dynamodb')
ORDER BY sequence
