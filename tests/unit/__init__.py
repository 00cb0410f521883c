"""Tests of one part at a time, without processes where that is possible."""
