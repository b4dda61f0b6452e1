"""The cost of work: tokens, prices, GPU seconds, and estimates of them."""
