"""`qmill.JobQueue` as a `concurrent.futures.Executor`."""
