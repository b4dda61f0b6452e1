SELECT uid, answer, "score.math" AS math, list_position("select.rank", 1) AS best, "select.response"[:20] AS response
FROM 'out/demo/best/data/*.parquet' ORDER BY uid LIMIT 5
