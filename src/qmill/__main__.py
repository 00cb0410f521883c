"""`python -m qmill` is the command `qmill`."""

from .command import console

console()
