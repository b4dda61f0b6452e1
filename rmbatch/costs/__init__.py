"""What work costs: tokens, prices, GPU seconds, and estimates of them."""
