-- notifications: what was sent to the channels of [notify].
SELECT time, kind, subject, event, text, run_id
FROM stored_notifications
