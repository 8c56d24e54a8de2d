-- Activity of the sessions in `asked`: what the allow-list may speak for.
SELECT session_id, network, asn, user_agent, referer_host, minute, requests
FROM activity
WHERE session_id IN (SELECT session_id FROM asked)
