"""What is large, and what is told of it."""

from __future__ import annotations

import functools
import threading
import types

import numpy
import pandas
import pytest

from qmill.jobs import kept


class Thing:
    def __init__(self, *parts):
        self.parts = parts

    def method(self):
        """Do nothing."""


class Slow:
    """Whoever looks at it is lost."""

    @property
    def nbytes(self):
        raise RuntimeError("no size today")

    def __sizeof__(self):
        raise RuntimeError("nor that")

    @property
    def shape(self):
        raise RuntimeError("nor a shape")

    def __repr__(self):
        raise RuntimeError("nor a text")


MUCH = 2 * kept.KEPT_BYTES


def circle(size):
    inside = [b"x" * size]
    inside.append(inside)
    return inside


@pytest.mark.parametrize(
    "make",
    [
        lambda size: b"x" * size,
        lambda size: "x" * size,
        bytearray,
        lambda size: [1] * size,
        lambda size: [[bytes(1000)] for _ in range(size // 1000)],
        lambda size: {"a": {"b": (b"x" * size,)}},
        lambda size: {b"x" * size: 1},
        lambda size: [list(range(10)) for _ in range(size // 50)],
        lambda size: Thing(1, Thing(b"x" * size)),
        lambda size: numpy.zeros(size, "u1"),
        lambda size: numpy.zeros(size, "u1")[::-1],
        lambda size: memoryview(bytes(size)),
        lambda size: pandas.DataFrame({"a": numpy.zeros(size, "u1")}),
        lambda size: functools.partial(print, b"x" * size),
        lambda size: functools.partial(print, held=[b"x" * size]),
        lambda size: Thing(b"x" * size).method,
        lambda size: types.SimpleNamespace(a=b"x" * size),
        circle,
    ],
)
def test_what_is_large_and_what_is_not(make):
    assert kept.takes_much(make(MUCH))
    assert kept.are_large((1, make(MUCH)), None)
    assert kept.are_large((), {"a": make(MUCH)})
    assert not kept.takes_much(make(1000))
    assert not kept.are_large((1, make(1000)), {"a": make(1000)})


@pytest.mark.parametrize(
    "thing",
    [
        numpy,
        pandas.DataFrame,
        threading.Lock(),
        len,
        Slow(),
        None,
        test_what_is_large_and_what_is_not,
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_what_belongs_to_others_is_not_large(thing):
    assert not kept.are_large((thing,), {"thing": thing})


def test_many_small_arguments_may_be_large_together():
    assert kept.are_large(("x" * 200,) * 5, None) is False
    assert kept.are_large(tuple("x" * 200 + str(n) for n in range(400)), None)
    assert kept.takes_much(*["x" * 100] * 10_000) is False  # one text, many times


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (5, 5),
        (None, None),
        (True, True),
        ("short", "short"),
        (b"short", b"short"),
        (numpy.zeros((3, 4)), "<numpy.ndarray of shape (3, 4)>"),
        (numpy.float64(1.5), "<numpy.float64 of shape ()>"),
        (pandas.DataFrame({"a": [1, 2]}), "DataFrame of shape (2, 1)>"),
        ([1, 2], "[1, 2]"),
        (Slow(), "its repr raises RuntimeError"),
    ],
)
def test_what_is_told_of_a_large_argument(value, told):
    shown = kept._short(value)
    assert shown == told or (isinstance(shown, str) and shown.endswith(told))
    assert len(str(kept._short("x" * 10_000))) < 100
