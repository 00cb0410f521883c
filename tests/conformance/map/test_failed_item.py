"""An error names the item that failed."""

from __future__ import annotations

import functools
import operator
import threading
from concurrent.futures import CancelledError

import pytest

import qmill

from .sources import (
    CHUNKS,
    broken_source,
    fail_always,
    fail_at,
    fail_at_three,
    notes_of,
    take_until_error,
)


class Refusing(Exception):
    """An exception that takes no attributes, as those of frozen dataclasses."""

    def __setattr__(self, name, value):
        raise AttributeError(f"cannot set {name}")


class WithoutNotes(Exception):
    """An exception whose class has made something else of its notes."""

    __notes__ = property(lambda self: 1 / 0)


class Troubled:
    """An item that cannot be shown."""

    def __init__(self, trouble):
        self._trouble = trouble

    def __repr__(self):
        return self._trouble()


@pytest.mark.parametrize("options", CHUNKS)
@pytest.mark.parametrize("where", [0, 33, 49])
def test_an_exception_has_a_note_with_the_index_and_the_item(map_, jobs, options, where):
    items = [f"item-{number}" for number in range(50)]
    function = functools.partial(fail_at, where=items[where])
    for results in (map_(function, items, **options), jobs.map(function, items, **options)):
        taken, error = take_until_error(results, ZeroDivisionError)
        assert taken == items[:where]
        assert (type(error), error.args) == (ZeroDivisionError, ("item", items[where]))
        assert notes_of(error) == [f"item {where} of map: 'item-{where}'"]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_the_note_shows_the_tuple_of_several_iterables(map_, chunksize):
    results = map_(fail_always, [1, 2], "ab", chunksize=chunksize)
    _, error = take_until_error(results, LookupError)
    assert notes_of(error) == ["item 0 of map: (1, 'a')"]


def test_the_note_of_options_map(jobs):
    results = jobs.options(priority=3).map(fail_at_three, range(8))
    assert notes_of(take_until_error(results, ZeroDivisionError)[1]) == ["item 3 of map: 3"]


def test_the_note_of_an_unordered_map(map_):
    results = map_(fail_at_three, range(8), ordered=False)
    assert notes_of(take_until_error(results, ZeroDivisionError)[1]) == ["item 3 of map: 3"]


def test_a_map_in_a_map_notes_both_items(map_):
    def inner(number):
        return list(qmill.map(fail_at_three, [number, 3], engine="thread"))

    _, error = take_until_error(map_(inner, [1, 2]), ZeroDivisionError)
    assert notes_of(error) == ["item 1 of map: 3", "item 0 of map: 1"]


@pytest.mark.parametrize("kind", [Refusing, WithoutNotes])
def test_an_exception_that_refuses_a_note_gets_through(kind):
    function = functools.partial(fail_at, where=3, error=kind)
    results = qmill.map(function, range(8), engine="thread", max_workers=2)
    taken, error = take_until_error(results, kind)
    assert (taken, error.args) == ([0, 1, 2], ("item", 3))


def raise_from(error):
    raise error


ODD_ITEMS = {
    "raises": (lambda: Troubled(lambda: 1 / 0), "its repr raises ZeroDivisionError"),
    "exits": (lambda: Troubled(lambda: raise_from(SystemExit(3))), "its repr raises SystemExit"),
    "is no text": (lambda: Troubled(lambda: 3), "its repr raises TypeError"),
    "is long": (lambda: Troubled(lambda: "x" * 1000), "x" * 80 + "..."),
    "is a long text": (lambda: "x" * 1000, "'" + "x" * 79 + "..."),
}


@pytest.mark.parametrize("what", ODD_ITEMS)
def test_an_item_whose_repr(what):
    make, shown = ODD_ITEMS[what]
    results = qmill.map(fail_always, [make()], engine="thread")
    _, error = take_until_error(results, LookupError)
    assert notes_of(error) == [f"item 0 of map: {shown}"]


class Seen:
    """An item that tells when somebody shows it."""

    num_shown = 0

    def __repr__(self):
        Seen.num_shown += 1
        return "seen"


@pytest.mark.parametrize("kind", [list, tuple, set, lambda items: dict.fromkeys(items, 1)])
def test_only_the_beginning_of_a_large_item_is_looked_at(kind):
    Seen.num_shown = 0
    results = qmill.map(fail_always, [kind(Seen() for _ in range(10_000))], engine="thread")
    _, error = take_until_error(results, LookupError)
    assert "seen, " in notes_of(error)[0] or "seen: 1" in notes_of(error)[0]
    assert len(notes_of(error)[0]) < 120
    assert Seen.num_shown < 100


def test_items_that_are_slow_to_show_are_shown_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(
        "qmill.job_queue.map_calls._SHOWING_S", -1.0
    )  # as if it had taken long already
    results = qmill.map(fail_always, [1, 2], engine="thread", return_exceptions=True)
    assert [notes_of(error) for error in results] == [["item 0 of map"], ["item 1 of map"]]


@pytest.mark.parametrize("options", [{}, {"chunksize": 4}, {"buffersize": 2}])
def test_an_error_of_the_input_has_a_note_with_the_index(map_, options):
    _, error = take_until_error(map_(operator.neg, broken_source(9), **options), LookupError)
    assert notes_of(error) == ["item 9 of map could not be read from its input"]


def test_an_error_of_the_input_of_a_queues_map_has_a_note(jobs):
    with pytest.raises(LookupError) as info:
        jobs.map(abs, broken_source(5))
    assert notes_of(info.value) == ["item 5 of map could not be read from its input"]


@pytest.mark.parametrize("options", CHUNKS)
@pytest.mark.parametrize("how", ["item", "result"])
def test_what_cannot_be_sent_has_a_note(how, options):
    items = [*range(8), threading.Lock() if how == "item" else 8, 9]

    def function(item):
        return threading.Lock() if item == 8 else item

    results = qmill.map(function, items, max_workers=2, **options)
    taken, error = take_until_error(results, qmill.SerializationError)
    assert taken == list(range(8))
    assert notes_of(error)[0].startswith("item 8 of map: ")


class RaisesWhenRebuilt:
    def __reduce__(self):
        return int, ("no number",)


@pytest.mark.parametrize("chunksize", [1, 2, 5, 9])
def test_an_item_that_cannot_be_rebuilt_costs_no_other(jobs, chunksize):
    if jobs._engine.can_kill:
        items = [0, 1, 2, RaisesWhenRebuilt(), 4, 5, 6]
        results = jobs.map(operator.not_, items, chunksize=chunksize)
        taken, error = take_until_error(results, qmill.SerializationError)
        assert taken == [True, False, False]
        assert notes_of(error)[0].startswith("item 3 of map: ")
        results = list(jobs.map(operator.not_, items, chunksize=chunksize, return_exceptions=True))
        assert type(results.pop(3)) is qmill.SerializationError
        assert results == [True] + [False] * 5


def test_a_result_that_is_not_there_in_time_has_a_note(jobs, gate):
    results = jobs.map(gate.hold, ["a", "b"], timeout=0.01)
    with pytest.raises(TimeoutError) as info:
        next(results)
    assert notes_of(info.value) == ["item 0 of map: 'a'"]
    gate.permits.put_many([1, 1])


def test_a_call_that_runs_too_long_is_named(gate):
    results = qmill.map(gate.hold, ["a"], job_timeout=0.2)
    with pytest.raises(qmill.JobTimeout, match=r"^item 0 of map ran longer") as info:
        next(results)
    assert notes_of(info.value) == ["item 0 of map: 'a'"]


def test_calls_that_are_cancelled_are_named(engine):
    with qmill.JobQueue(1, engine=engine, auto_start=False) as jobs:
        results = jobs.map(operator.neg, range(6), chunksize=2)
        jobs.clear_waiting()
        with pytest.raises(CancelledError) as info:
            next(results)
        assert notes_of(info.value) == ["items 0 to 1 of map"]


def test_one_object_that_is_raised_again_and_again_collects_no_notes():
    error = LookupError("always the same")

    def fail(_):
        raise error

    results = list(qmill.map(fail, range(50), engine="thread", return_exceptions=True))
    assert set(map(id, results)) == {id(error)}
    assert len(notes_of(error)) == 1
