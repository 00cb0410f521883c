"""One suite for every transport of `qmill.Queue`."""
