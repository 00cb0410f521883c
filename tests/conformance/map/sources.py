"""Inputs and functions of maps, those that fail among them, and ways to leave a map."""

from __future__ import annotations

import select
from collections import Counter

import pytest


class Source:
    """An iterable that knows how many of its items have been read."""

    def __init__(self, items):
        self._items = iter(items)
        self.num_read = 0

    def __iter__(self):
        for item in self._items:
            self.num_read += 1
            yield item


def by_value():
    """Return functions that travel by value: for one of this module a worker imports pytest."""

    def fail_at_three(number):
        if number == 3:
            raise ZeroDivisionError(f"item {number}")
        return number

    def stop_iteration_at_three(number):
        if number == 3:
            raise StopIteration
        return number

    def get_permit(number, permits):
        return permits.get()

    def get_permit_slowly(number, permits):
        select.select([], [], [], 0.05)
        return permits.get()

    return fail_at_three, stop_iteration_at_three, get_permit, get_permit_slowly


fail_at_three, stop_iteration_at_three, get_permit, get_permit_slowly = by_value()


def take_until_error(results, error):
    """Return what comes before the error that has to come."""
    taken = []
    with pytest.raises(error) as raised:
        for result in results:
            taken.append(result)
    return taken, raised.value


def broken_source(num_items):
    yield from range(num_items)
    raise LookupError("the input is broken")


def leave_by_close(results):
    results.close()


def leave_by_drop(results):
    pass


def leave_by_exception(results):
    with pytest.raises(LookupError):
        for _ in results:
            raise LookupError


def leave_by_break(results):
    for _ in results:
        break


LEAVING = [leave_by_close, leave_by_drop, leave_by_exception, leave_by_break]


def failing():
    """Return functions that travel by value, as those above."""

    def fail_at(item, where, error=ZeroDivisionError):
        if item == where:
            raise error("item", item)
        return item

    def fail_always(*items):
        raise LookupError(items)

    def fail_until(number, path, limit):
        with open(path, "a+") as file:
            file.write(f"{number}\n")
            file.seek(0)
            tries = file.read().split().count(str(number))
        if number % 3 == 1 and tries < limit:
            raise LookupError(number, tries)
        return number

    return fail_at, fail_always, fail_until


fail_at, fail_always, fail_until = failing()


def notes_of(error):
    return getattr(error, "__notes__", [])


def counts_of(path):
    return Counter(map(int, path.read_text().split()))


CHUNKS = [{}, {"chunksize": 1}, {"chunksize": 7}, {"chunksize": 100}, {"buffersize": 3}]
