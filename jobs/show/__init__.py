"""Shows jobs to people: plan, doctor, status, progress and the list of rewards."""
