"""Queues in shared memory, by the native core."""
