"""Queues between the threads of one process."""
