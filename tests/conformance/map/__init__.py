"""A function over many items: `qmill.map`, `JobQueue.map` and `qmill.parallel`."""
