"""What messages of a storm carry, made from their numbers."""

from __future__ import annotations

import random

import numpy

import qmill


class Array:
    """A large buffer that is not copied on receipt."""

    def __init__(self, number):
        self.data = numpy.full(12_500, number, dtype=numpy.int64)

    def __eq__(self, other):
        return type(other) is Array and numpy.array_equal(self.data, other.data)

    __hash__ = None


def small(number):
    """An int, or a record of some hundred bytes."""
    if number % 3:
        return number
    return {"number": number, "name": "x" * (number % 400), "more": [number, None, 0.5]}


def large(number):
    """Blocks of 100 kB, with and without a code of their own, and small ones between them."""
    makers = (int, small, lambda n: bytes([n % 251]) * 100_000, Array)
    return makers[number % 4](number)


def mixed(number):
    """Mostly small ones, and one of up to 6 MB now and then."""
    if number % 20:
        return small(number)
    chosen = random.Random(number)
    return bytes([number % 251]) * chosen.choice((chosen.randrange(6_000_000), 40_000, 1))


EVERY = {small: 100, large: 20, mixed: 20}
"""How many operations there are about between two reports of a process."""


class Reopened:
    """A named queue, as a program has it that opens and closes it for each operation."""

    def __init__(self, name):
        self._name = name

    def put(self, item):
        queue = qmill.Queue(name=self._name)
        queue.put(item)
        queue.close()

    def get(self):
        queue = qmill.Queue(name=self._name)
        item = queue.get()
        queue.close()
        return item
