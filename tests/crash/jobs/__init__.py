"""Jobs that break their worker, their pool or their parent."""
