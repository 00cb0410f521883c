"""Jobs, their records, and the order in which they run: no threads, no processes, no clock."""
