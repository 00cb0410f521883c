"""The engine that runs jobs in processes on this machine."""
