"""The plain way and the careful one; buffers."""

from __future__ import annotations

import collections
import gc
import pickle

import numpy
import pytest

import qmill
from qmill.packing.serialize import Exports, dumps, loads

from .channel import LARGE, Channel, there_and_back

# -- the plain way and the careful one ------------------------------------------------------------


@pytest.mark.parametrize(
    "obj",
    [None, 0, "text", b"bytes", [1, [2]], {"a": (1, 2)}, {1, 2}, 1.5, range(3), Ellipsis],
    ids=repr,
)
def test_builtin_objects_are_plain_pickles(obj):
    data = dumps(obj)
    assert data == pickle.dumps(obj, 5)
    assert loads(data) == obj


def test_an_importable_class_goes_by_reference():
    data = dumps(collections.Counter("aab"))
    assert data.startswith(pickle.dumps(collections.Counter("aab"), 5))
    assert loads(data) == collections.Counter("aab")
    assert len(data) < 150


def test_importable_functions_and_classes_keep_their_identity():
    assert there_and_back([Channel, there_and_back, len]) == [Channel, there_and_back, len]


def test_text_that_only_looks_like_main_is_just_text():
    obj = {"__main__": ["__mp_main__", "qmill.packing.serialize\n_defined"]}
    assert there_and_back(obj) == obj
    assert loads(dumps(obj, Exports())) == obj


def test_lambda():
    assert there_and_back(lambda number: number + 1)(2) == 3


def test_closure():
    def adder(amount):
        return lambda number: number + amount

    assert there_and_back(adder(3))(4) == 7


def test_recursive_closure():
    def factorial(number):
        return number * factorial(number - 1) if number else 1

    assert there_and_back(factorial)(5) == 120


def test_local_class_keeps_its_identity():
    class Local:
        def __init__(self, x):
            self.x = x

    same = there_and_back(Local(3))
    assert type(same) is Local
    assert same.x == 3


def test_local_class_in_another_process_keeps_its_identity_on_the_way_back(channel, back):
    class Local:
        pass

    there = channel.send(Local())
    assert type(there) is not Local
    assert type(channel.send(Local())) is type(there)
    assert type(back.send(there)) is Local


def test_what_is_sent_does_not_change_what_stays():
    items = [1]
    there_and_back(items).append(2)
    assert items == [1]


@pytest.mark.parametrize("kind", [memoryview, bytearray])
def test_loads_takes_any_bytes_like_object(kind):
    assert loads(kind(dumps(["a", 1]))) == ["a", 1]
    assert loads(kind(dumps(lambda: 5)))() == 5
    array = numpy.arange(LARGE, dtype="u1")
    assert (loads(kind(dumps(array))) == array).all()


def test_a_queue_for_threads_is_refused_with_a_type_error():
    with pytest.raises(TypeError, match="kind='thread'") as info:
        dumps({"queue": qmill.Queue(kind="thread")})
    assert isinstance(info.value, pickle.PicklingError)


# -- buffers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, LARGE, LARGE + 1])
def test_arrays_round_trip(size):
    array = numpy.arange(size, dtype="f8")
    same = there_and_back(array)
    assert same.dtype == array.dtype
    assert (same == array).all()


@pytest.mark.parametrize("size", [10, LARGE], ids=["in band", "out of band"])
def test_a_writable_array_stays_writable(size):
    array = numpy.arange(size, dtype="u1")
    same = there_and_back(array)
    assert same.flags.writeable
    same[0] = 7
    assert array[0] == 0


@pytest.mark.parametrize("size", [10, LARGE], ids=["in band", "out of band"])
def test_a_read_only_buffer_stays_read_only(size):
    same = memoryview(there_and_back(pickle.PickleBuffer(bytes(size))))
    assert same.readonly
    assert same == bytes(size)


@pytest.mark.parametrize("size", [10, LARGE], ids=["in band", "out of band"])
def test_a_writable_buffer_stays_writable(size):
    mine = bytearray(size)
    same = memoryview(there_and_back(pickle.PickleBuffer(mine)))
    assert not same.readonly
    same[0] = 1
    assert mine[0] == 0


def test_a_read_only_array_is_not_changed_by_its_copy():
    array = numpy.frombuffer(bytes(LARGE), dtype="u1")
    same = there_and_back(array)
    assert not same.flags.writeable
    assert (same == array).all()


def test_large_buffers_are_not_copied_into_the_pickle_and_not_out_of_it():
    array = numpy.zeros(LARGE, dtype="u1")
    data = dumps(array)
    assert len(data) < LARGE + 1000
    view = numpy.frombuffer(data, dtype="u1")
    assert numpy.shares_memory(loads(data), view)


def test_shared_buffers_stay_shared():
    array = numpy.zeros(LARGE, dtype="u1")
    first, second = there_and_back([array, array])
    first[0] = 9
    assert second[0] == 9


def test_several_buffers_of_odd_sizes_are_aligned():
    arrays = [numpy.arange(LARGE + odd, dtype=kind) for odd, kind in enumerate(["u1", "f8", "c16"])]
    data = dumps(arrays)
    start = numpy.frombuffer(data, dtype="u1").ctypes.data
    for array, same in zip(arrays, loads(data), strict=True):
        assert (same == array).all()
        assert same.flags.aligned
        assert (same.ctypes.data - start) % 64 == 0


def test_arrays_that_are_not_contiguous():
    array = numpy.arange(2 * LARGE, dtype="u1").reshape(2, -1)
    for view in (array[:, ::2], array.T, array[::-1]):
        assert (there_and_back(view) == view).all()


def test_a_buffer_inside_what_only_cloudpickle_takes():
    array = numpy.arange(LARGE, dtype="u1")
    function = there_and_back(lambda: array)
    assert (function() == array).all()
    assert function().flags.writeable


def test_the_users_buffer_is_free_after_dumps():
    mine = bytearray(LARGE)
    dumps(pickle.PickleBuffer(mine))
    gc.collect()
    mine.append(1)  # a BufferError if a view were left
