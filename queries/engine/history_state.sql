-- The last sequence of the history, and the automatic first blocks since $since.
SELECT
    COALESCE(MAX(sequence), 0) AS sequence,
    CAST(COALESCE(SUM(CASE WHEN event = 'revoked' AND origin = 'auto' AND time > $since THEN 1 ELSE 0 END), 0) AS BIGINT) AS blocks
FROM revocations
