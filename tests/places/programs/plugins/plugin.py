"""What a program loads by its file."""

import dataclasses
import enum

FACTOR = 3


def times(x):
    return x * FACTOR


def helper(x):
    return times(x) + 1


def same(x):
    return x


class Box:
    def __init__(self, content):
        self.content = content

    def tripled(self):
        return Box(times(self.content))


@dataclasses.dataclass
class Point:
    x: int


class Color(enum.Enum):
    RED = 1


class Failure(Exception):
    pass


def fail():
    raise Failure("as asked")
