"""How a job runs: it is fitted to its input, its services are started, its rows worked on, its output finished."""
