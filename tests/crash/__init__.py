"""Tests of what happens when processes die, are killed or hang."""
