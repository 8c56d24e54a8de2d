-- The last sequence of each of the two tables.
SELECT
    (SELECT COALESCE(MAX(sequence), 0) FROM syncs) AS syncs,
    (SELECT COALESCE(MAX(sequence), 0) FROM enforcement) AS enforcement
