"""What was paid for is kept: answers of chat models, scores of reward models."""
