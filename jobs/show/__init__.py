"""What a person sees of a job: plan, doctor, status, progress and the list of rewards."""
