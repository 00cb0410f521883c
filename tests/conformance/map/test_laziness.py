"""Inputs are read a little ahead of the results."""

from __future__ import annotations

import gc
import itertools
import operator
import threading

import pytest

from .sources import Source, get_permit, get_permit_slowly


def test_nothing_is_read_before_the_first_result_is_asked_for(map_):
    source = Source(range(5))
    results = map_(abs, source)
    assert source.num_read == 0
    assert list(results) == [0, 1, 2, 3, 4]


def test_the_sixth_of_ten_slow_inputs_is_not_read_for_the_first_result(map_, gates):
    """PAINS 14: `map` reads its whole input, and memory grows."""
    source = Source(range(10))
    results = map_(get_permit_slowly, source, gates)
    gates[0].put("first")
    assert next(results) == "first"
    assert source.num_read <= 5
    for number, permits in enumerate(gates[1:]):
        permits.put(number)
    assert list(results) == list(range(9))
    assert source.num_read == 10


def test_slow_inputs_are_read_a_little_ahead_of_the_results(map_, gates):
    """PAINS 14: `map` reads its whole input, and memory grows.

    With two workers, four are under way.
    """
    source = Source(range(10))
    results = map_(get_permit_slowly, source, gates)
    for number, permits in enumerate(gates):
        permits.put(number)
        assert next(results) == number
        assert source.num_read <= number + 1 + 4


def test_a_map_of_an_endless_input_gives_results(map_):
    """PAINS 14: `map` reads its whole input, and memory grows."""
    source = Source(itertools.count())
    results = map_(operator.neg, source)
    assert list(itertools.islice(results, 300)) == [-number for number in range(300)]
    results.close()
    assert source.num_read < 1_000_000
    num_read = source.num_read
    gc.collect()
    assert source.num_read == num_read


def test_endless_inputs_unordered(map_):
    results = map_(operator.neg, itertools.count(), ordered=False)
    assert len(set(itertools.islice(results, 300))) == 300


@pytest.mark.parametrize("buffersize", [1, 2, 3, 10])
@pytest.mark.parametrize("options", [{}, {"chunksize": 1}, {"chunksize": 2}, {"ordered": False}])
def test_no_more_than_the_buffer_is_read_ahead(map_, buffersize, options):
    source = Source(range(50))
    num_yielded = 0
    for _ in map_(abs, source, buffersize=buffersize, **options):
        num_yielded += 1
        assert source.num_read <= num_yielded + buffersize
    assert num_yielded == 50


def test_the_whole_buffer_is_under_way(map_, gates):
    source = Source(range(10))
    results = map_(get_permit, source, gates, buffersize=6)
    gates[0].put("first")
    assert next(results) == "first"
    assert 6 <= source.num_read <= 7


def test_chunks_stay_together(map_):
    places = list(map_(lambda _: threading.get_native_id(), range(20), chunksize=5))
    for start in range(0, 20, 5):
        assert len(set(places[start : start + 5])) == 1


@pytest.mark.parametrize("chunksize", [1, 2, 7, 100])
def test_any_chunksize(map_, jobs, chunksize):
    wanted = [-number for number in range(40)]
    assert list(map_(operator.neg, range(40), chunksize=chunksize)) == wanted
    assert sorted(map_(operator.neg, range(40), chunksize=chunksize, ordered=False)) == wanted[::-1]
    assert list(jobs.map(operator.neg, range(40), chunksize=chunksize)) == wanted
    assert list(jobs.map(operator.neg, range(40), chunksize=chunksize, buffersize=9)) == wanted
