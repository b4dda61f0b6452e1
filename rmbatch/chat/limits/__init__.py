"""What holds a client back: rate, budget and the accounts of both."""
