"""Queues: one class for all kinds, one transport a file."""
