"""Queues in a broker's process, where there is no native core."""
