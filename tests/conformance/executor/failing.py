"""Functions of jobs, most of which fail, and a limit for garbage."""

from __future__ import annotations

FREED_AFTER_S = 10.0


def make_fail():
    """Return a function that travels by value: a worker imports no module for it."""

    def fail():
        raise KeyError("a key")

    return fail


fail = make_fail()


def multiplier(factor):
    def multiply(number):
        return factor * number

    return multiply


def raise_in_the_depth():
    raise KeyError("a key")


class SpecialError(Exception):
    def __init__(self, message, code):
        super().__init__(message, code)
        self.code = code


def raise_special():
    error = SpecialError("special", 7)
    error.add_note("a note")
    raise error


def raise_special_with(argument):
    raise SpecialError("special", len(argument))
