"""Engines run jobs in slots and report what became of them: threads, processes, clusters."""
