"""Promises of `qmill.JobQueue` beyond those of an executor."""
