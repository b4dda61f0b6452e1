"""Ray actors that hold engines, clients and limits for the tasks of a job."""
