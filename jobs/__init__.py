"""What one can ask for: the jobs and the command line."""
