"""Seeing the work: what is made of jobs' records."""
