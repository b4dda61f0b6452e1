SELECT uid, answer, "score.math", "score.length", "select.rank", "select.reason", "select.response"
FROM 'out/demo/best/data/*.parquet' ORDER BY uid LIMIT 5
