"""What a job does to each block of rows: a stage for each kind of work."""
