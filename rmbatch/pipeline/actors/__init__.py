"""Ray actors that hold engines, chat clients and limits for the tasks of a job."""
