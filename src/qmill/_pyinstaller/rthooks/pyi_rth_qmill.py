"""Turns a frozen program that was started to be a worker into one, before its own code runs."""

from qmill.system.frozen import freeze_support_early

freeze_support_early()
