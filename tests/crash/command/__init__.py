"""The command: real processes, files and pipes, and those that it leaves when they break."""
