"""Names of functions and texts of exceptions in a record."""

from __future__ import annotations

import functools
import operator

import pytest

from qmill.jobs.fields import exception_text, function_name
from qmill.packing.remote_errors import RemoteTraceback

from .files import Unspeakable, add, raised

# -- names of functions ---------------------------------------------------------------------------


class Thing:
    def method(self):
        pass

    @classmethod
    def of_class(cls):
        pass

    @staticmethod
    def static():
        pass

    def __call__(self):
        pass


class Secretive(Thing):
    """Tells nothing of itself, as a proxy that stands for nothing yet."""

    def __repr__(self):
        raise ValueError("secret")

    def __getattr__(self, name):
        raise ValueError("secret")


def local_function():
    def inside():
        pass

    return inside


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (add, "add"),
        (len, "len"),
        (operator.add, "add"),
        (lambda: 1, "<lambda>"),
        (local_function(), "inside"),
        (Thing.method, "method"),
        (Thing().method, "method"),
        (Thing.of_class, "of_class"),
        (Thing.static, "static"),
        ("".join, "join"),
        (Thing, "Thing"),
        (Thing(), "Thing"),
        (operator.itemgetter(1), "itemgetter"),
        (functools.partial(add, 1), "add"),
        (functools.partial(functools.partial(add, 1), 2), "add"),
        (functools.partial(Thing().method), "method"),
        (functools.partial(Thing()), "Thing"),
        (functools.lru_cache(add), "add"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_function_is_called_by_the_last_part_of_its_name(function, name):
    assert function_name(function).split(".")[-1] == name


def test_no_function_has_no_name():
    assert function_name(None) is None


@pytest.mark.parametrize("wrap", [lambda thing: thing, functools.partial])
def test_a_callable_that_tells_nothing_has_the_name_of_its_class(wrap):
    assert "Secretive" in function_name(wrap(Secretive()))


def test_a_name_that_is_no_text_is_not_taken_for_one():
    odd = Thing()
    odd.__name__ = 3
    assert isinstance(function_name(odd), str)


# -- texts of exceptions --------------------------------------------------------------------------


def test_no_exception_has_no_text():
    assert exception_text(None) is None


def test_an_exception_that_was_raised_has_its_traceback():
    text = exception_text(raised(ValueError("no good")))
    assert "Traceback" in text
    assert "in raised" in text
    assert "ValueError: no good" in text


def test_an_exception_of_a_worker_has_the_traceback_from_there():
    there = "Traceback (most recent call last):\n  in far_away\nValueError: no good"
    text = exception_text(raised(ValueError("no good"), RemoteTraceback(there)))
    assert "in far_away" in text
    assert "in raised" not in text  # where the parent raised it again tells nothing


@pytest.mark.parametrize("error", [ValueError("no good"), KeyError("key"), SystemExit(3)])
def test_an_exception_that_was_not_raised_has_its_own_text(error):
    text = exception_text(error)
    assert type(error).__name__ in text
    assert str(error) in text
    assert "Traceback" not in text


def test_an_exception_without_a_message_is_named():
    assert "ValueError" in exception_text(ValueError())


class Evasive(Exception):
    """As an exception of a library that looks all attributes up elsewhere."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")


@pytest.mark.parametrize("kind", [Unspeakable, Evasive])
@pytest.mark.parametrize("bring", [lambda error: error, raised], ids=["made", "raised"])
def test_an_exception_that_cannot_be_told_is_named(kind, bring):
    assert kind.__name__ in exception_text(bring(kind("no good")))
