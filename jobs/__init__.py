"""What one can ask for: the kinds of jobs, and the command line."""
