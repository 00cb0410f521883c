"""Promises of a queue on any transport, whichever process made it."""
