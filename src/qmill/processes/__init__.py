"""Processes: how they start, what they inherit, what ends with them."""
