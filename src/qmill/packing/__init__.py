"""Objects and bytes: pickling, functions and classes of the program, values shared by jobs."""
