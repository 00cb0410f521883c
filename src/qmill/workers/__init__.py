"""Workers: a function in a process or a thread of its own."""
