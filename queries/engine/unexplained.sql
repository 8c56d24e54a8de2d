-- Sessions that are in the rules (table enforced) and of whose block the history knows nothing, with what WAF matches.
SELECT enforced.session_id, enforced.mode, enforced.revoked_at, credentials.component, credentials.credential
FROM enforced
JOIN credentials ON credentials.session_id = enforced.session_id
WHERE enforced.session_id NOT IN (
    SELECT session_id
    FROM revocations
    WHERE event IN ('revoked', 'extended', 'released', 'expired', 'restored')
)
ORDER BY enforced.session_id, credentials.component, credentials.credential
