"""A Dask cluster of several processes, whose workers come, go and die."""
