"""Workers of `run`: their results, and the deaths of workers, readers and parents."""
