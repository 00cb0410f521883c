"""What the package needs of Python and of the operating system: no queues, no jobs."""
