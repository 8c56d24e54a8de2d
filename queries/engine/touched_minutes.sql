-- Every touched minute, with the last batch that wrote to it and the number of its sessions with new rows.
SELECT minute, MAX(batch) AS batch, COUNT(*) AS sessions
FROM touched
GROUP BY minute
