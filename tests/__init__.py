"""The tests of qmill."""
