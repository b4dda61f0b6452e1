"""How a job runs: it is fitted to its input, starts its services, processes its rows and finishes its output."""
