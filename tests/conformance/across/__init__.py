"""Queues between processes: sent, shared, and outliving processes that die."""
