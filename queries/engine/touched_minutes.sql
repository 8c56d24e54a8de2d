-- Every touched minute, with the last batch that wrote to it.
SELECT minute, MAX(batch) AS batch
FROM touched
GROUP BY minute
