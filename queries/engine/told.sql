-- What was told of each alarm: when last, and whether it was over since.
SELECT
    kind,
    subject,
    MAX(CASE WHEN event = 'told' THEN time END) AS told_at,
    MAX(CASE WHEN event = 'over' THEN time END) AS over_at
FROM notifications
WHERE kind <> 'sessions'
GROUP BY kind, subject
