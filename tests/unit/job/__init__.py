"""A job as a `concurrent.futures.Future`: outcome, waiters and costs."""
