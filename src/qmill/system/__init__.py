"""The package's needs of Python and of the operating system: no queues, no jobs."""
