"""The columns that a correction adds to each row; ``stages/correct.py`` writes them."""

RESPONSE, SCORE_BEFORE, SCORE, OUTCOME = "correct.response", "correct.score_before", "correct.score", "correct.outcome"
STOPPED, ERROR, ROUNDS, TOKENS = "correct.stopped", "correct.error", "correct.rounds", "correct.tokens"
BY_ROUND, HISTORY, CONTROL = "correct.by_round", "correct.history", "correct.control"
