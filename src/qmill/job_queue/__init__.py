"""The job queue, and `map`, `parallel` and pools, which stand on it."""
