"""Processes: their start, their inheritance, and the processes that end with them."""
