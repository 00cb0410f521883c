"""Measurements, apart from the tests: `make bench`, or `python -m benchmarks` with fewer peers."""
