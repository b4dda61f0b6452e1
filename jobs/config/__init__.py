"""The job file: its sections, its rewards, and what decides its result."""
