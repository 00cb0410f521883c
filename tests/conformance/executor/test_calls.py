"""Callables of all kinds can be submitted."""

from __future__ import annotations

import functools
import math
import operator

import pytest

from .failing import multiplier


class Scale:
    """Its instances, its methods and itself are called."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, number):
        return self.factor * number

    def times(self, number):
        return self.factor * number

    @classmethod
    def doubled(cls, number):
        return cls(2)(number)

    @staticmethod
    def tripled(number):
        return 3 * number

    def __eq__(self, other):
        return type(other) is Scale and other.factor == self.factor

    __hash__ = None


def quadrupled(number):
    return 4 * number


@functools.lru_cache
def remembered(number):
    return 5 * number


FUNCTIONS = {
    "lambda": (lambda number: 2 * number, (4,), 8),
    "closure": (multiplier(3), (4,), 12),
    "function of a module": (quadrupled, (4,), 16),
    "decorated function": (remembered, (4,), 20),
    "bound method": (Scale(6).times, (4,), 24),
    "class method": (Scale.doubled, (4,), 8),
    "static method": (Scale.tripled, (4,), 12),
    "callable instance": (Scale(7), (4,), 28),
    "class": (Scale, (4,), Scale(4)),
    "builtin": (math.factorial, (4,), 24),
    "builtin class": (complex, (1, 2), 1 + 2j),
    "method of a builtin": ("a-b".split, ("-",), ["a", "b"]),
    "unbound method of a builtin": (str.upper, ("a",), "A"),
    "partial of a builtin": (functools.partial(pow, 2), (4,), 16),
    "partial of a lambda": (functools.partial(lambda a, b: a - b, b=1), (4,), 3),
    "partial of a bound method": (functools.partial(Scale(8).times, number=4), (), 32),
    "operator": (operator.itemgetter(1), ("ab",), "b"),
}


@pytest.mark.parametrize(("function", "args", "wanted"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_whatever_can_be_called(jobs, function, args, wanted):
    assert jobs.submit(function, *args).result() == wanted
    assert jobs.put(function, args).result() == wanted
    if args:
        assert list(jobs.map(function, *([arg] for arg in args))) == [wanted]


def test_every_argument_goes_to_the_function(jobs):
    names = ["fn", "function", "self", "args", "kwargs", "timeout", "priority", "lane", "name"]
    kwargs = dict.fromkeys(names, 1)
    job = jobs.submit(lambda *args, **kwargs: (args, kwargs), 1, 2, **kwargs)
    assert job.result() == ((1, 2), kwargs)
