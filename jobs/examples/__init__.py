"""Job files that run as they are; the first line of each is its command."""
