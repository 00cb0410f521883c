"""The engine that runs jobs on a Dask cluster."""
