"""`jobs.scheduler`: which job runs next, and when something is due."""
