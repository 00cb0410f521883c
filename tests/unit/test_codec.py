"""What the native codec writes comes back as pickle would give it back, or is left to pickle."""

from __future__ import annotations

import math
import pickle
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from qmill import SerializationError
from qmill.queues.shared.core import why_not
from tests.limits import _no_test_hangs  # noqa: F401

pytestmark = pytest.mark.skipif(why_not() is not None, reason="needs the native core")


@pytest.fixture(scope="module")
def queue():
    from qmill.queues.shared.queue import SharedQueue

    return SharedQueue()


@dataclass
class Point:
    x: Any
    y: Any = 1.5


class Careful:
    """Says how it is pickled."""

    def __init__(self, x):
        self.x = x

    def __getstate__(self):
        return {"x": self.x + 1}


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x


@dataclass(frozen=True)
class Frozen:
    x: Any


class Numbers(list):
    pass


@dataclass
class Counted:
    x: Any
    seen: int = field(default=0, compare=False)

    def __setstate__(self, state):
        self.__dict__.update(state, seen=1)


def there_and_back(queue, obj):
    queue.put(obj)
    return queue.get()


def has_same_types(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return all(map(has_same_types, [*one, *one.values()], [*other, *other.values()]))
    if isinstance(one, (list, tuple)):
        return all(map(has_same_types, one, other))
    return True


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))
    | st.binary(max_size=50)
    | st.text(max_size=40).map(lambda text: 100 * text)
)
keys = st.none() | st.integers() | st.text(max_size=40) | st.tuples(st.integers(), st.text())
objects = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.builds(Point, inner, inner)
        | st.builds(Frozen, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(objects)
def test_an_object_comes_back_equal_and_of_the_same_types(queue, obj):
    found = there_and_back(queue, obj)
    assert found == obj
    assert has_same_types(found, obj)
    queue.put_many([obj, obj])
    assert queue.get_many(2) == [obj, obj]


@pytest.mark.parametrize(
    "number", [0, -1, 127, 128, -129, 2**15, -(2**31), 2**31, 2**63 - 1, 2**63]
)
def test_ints_of_each_size_inside_of_a_list(queue, number):
    assert there_and_back(queue, [number, -number]) == [number, -number]


def test_floats_keep_their_sign_and_nan(queue):
    zero, nan, infinite = there_and_back(queue, [-0.0, math.nan, -math.inf])
    assert math.copysign(1, zero) == -1
    assert math.isnan(nan)
    assert infinite == -math.inf


@pytest.mark.parametrize("make", [list, dict, lambda: Point(1), lambda: ([1],)])
def test_what_is_in_an_object_twice_is_one_thing_afterwards(queue, make):
    inner = make()
    for outer, parts_of in (
        ([inner, inner], lambda found: found),
        ({"a": inner, "b": [inner]}, lambda found: (found["a"], found["b"][0])),
        (Point(inner, inner), lambda found: (found.x, found.y)),
    ):
        first, second = parts_of(there_and_back(queue, outer))
        assert first is second
        assert first == inner


def test_circles_come_back_as_circles(queue):
    for make in (lambda: [1], lambda: {"one": 1}, lambda: Point(1)):
        outer = make()
        if isinstance(outer, list):
            outer.append(outer)
            assert (found := there_and_back(queue, outer))[1] is found
        elif isinstance(outer, dict):
            outer["self"] = outer
            assert (found := there_and_back(queue, outer))["self"] is found
        else:
            outer.y = outer
            assert (found := there_and_back(queue, outer)).y is found


def test_what_is_very_deep_is_left_to_pickle(queue):
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert there_and_back(queue, deep) == deep


@pytest.mark.parametrize(
    "obj",
    [Careful(1), Slotted(1), Numbers([1, 2]), Counted(1), 3 + 4j, {1, 2}, range(3)],
    ids=lambda obj: type(obj).__name__,
)
def test_what_says_how_it_is_pickled_is_pickled(queue, obj):
    expected = pickle.loads(pickle.dumps(obj))
    found = there_and_back(queue, obj)
    assert type(found) is type(expected)
    assert vars(found) == vars(expected) if hasattr(obj, "__dict__") else found == expected


def test_a_class_that_begins_to_say_how_it_is_pickled_is_heard(queue, monkeypatch):
    assert there_and_back(queue, Point(1)) == Point(1)
    monkeypatch.setattr(Point, "__getstate__", lambda self: {"x": "told", "y": 0}, raising=False)
    assert there_and_back(queue, Point(1)) == Point("told", 0)


def test_a_reducer_that_is_registered_later_is_heard(queue):
    import copyreg

    assert there_and_back(queue, Point(1)) == Point(1)
    copyreg.pickle(Point, lambda point: (Point, ("reduced", 0)))
    try:
        assert there_and_back(queue, Point(1)) == Point("reduced", 0)
    finally:
        del copyreg.dispatch_table[Point]


def test_a_class_that_has_been_replaced_in_its_module_is_not_taken_for_the_new_one(
    queue, monkeypatch
):
    assert there_and_back(queue, Point(1)) == Point(1)
    old, queued = Point(1), Point(2)
    queue.put(queued)
    new = type("Point", (), {"__module__": __name__, "__qualname__": "Point"})
    monkeypatch.setattr(sys.modules[__name__], "Point", new)
    assert type(queue.get()) is new  # as pickle finds it
    with pytest.raises((SerializationError, pickle.PicklingError)):
        pickle.dumps(old)
    assert type(there_and_back(queue, old)) is not new


def test_a_class_that_the_reader_has_not_is_named(queue, monkeypatch):
    queue.put(Point(1))
    monkeypatch.delattr(sys.modules[__name__], "Point")
    with pytest.raises(SerializationError, match=r"test_codec\.Point could not be rebuilt"):
        queue.get()
    queue.put(1)
    assert queue.get() == 1


def test_attributes_of_an_instance_have_interned_names(queue):
    found = there_and_back(queue, Point(1))
    (name, *_) = vars(found)
    assert name is sys.intern("x")


def test_a_tuple_of_scalars_that_others_refer_to_is_not_left_to_pickle(queue):
    queue.put({"shape": (3, 4)})
    assert is_encoded(queue)
    assert queue.get() == {"shape": (3, 4)}


def is_encoded(queue):
    """Whether the message that waits was written by the codec, and not by pickle."""
    import mmap

    with mmap.mmap(queue._ring.fileno(), 0) as memory:
        return memory.rfind(b"da\x05\0\0\0shape"[1:]) > memory.rfind(b"\x8c\x05shape")


def test_random_bytes_are_an_error_and_not_a_crash(queue):
    # The codec reads what other processes of this user wrote; a broken one must not end its reader.
    import random

    rng = random.Random(7)
    whole = {"id": 1, "name": "abc", "values": [1, (2.5, b"x"), None], "at": Point(1)}
    for _ in range(300):
        queue.put(whole)
        damage(queue, rng)
        try:
            queue.get()
        except (RuntimeError, SerializationError, TypeError, UnicodeDecodeError, MemoryError):
            pass
    queue.put(whole)
    assert queue.get() == whole


def damage(queue, rng):
    """Change a byte of the message that waits, in the file."""
    import mmap

    with mmap.mmap(queue._ring.fileno(), 0) as memory:
        begin = memory.rfind(b"d\x04\0\0\0", 0, memory.rfind(b"values"))
        assert begin > 0
        memory[begin + rng.randrange(1, 90)] = rng.randrange(256)


KINDS_AND_ORDERS = [("", 0), ("x" * 50, 2**40), ("y" * 250, 1), ("\xe9", -5), ("z", 2**70)]
SIZES = [0, 1, 4000, 4096, 16374, 16384, 70_000]


@pytest.mark.parametrize(("kind", "order"), KINDS_AND_ORDERS, ids=["plain", *"abcd"])
@pytest.mark.parametrize("size", SIZES)
def test_a_message_comes_with_its_kind_and_order_whatever_its_data(queue, size, kind, order):
    from qmill import Msg, Q

    q = Q._from_queue(queue)
    messages = iter(q)
    for data in (bytes(size), "\xe9" * size, [1] * size, {"x": bytearray(size)}, 2**80, None):
        expected = Msg(data, kind, order)
        for _ in range(3):
            assert q.put(data, kind=kind, order=order) is q
        assert q.peek() == expected
        assert q.get() == expected
        assert [next(messages), next(messages)] == 2 * [expected]
    del messages
    assert queue.empty()
    assert queue.statistics().leased == 0


def test_a_subclass_of_msg_is_put_as_it_is(queue):
    from qmill import Msg, Q

    q = Q._from_queue(queue)
    messages = iter(q)
    q.put(Remark(1, "a", 2)).put(Msg(3, "b", 4))
    first, second = next(messages), next(messages)
    assert type(first) is Remark
    assert (first, second) == (Remark(1, "a", 2), Msg(3, "b", 4))
    del messages


def _remark():
    from qmill import Msg

    return type("Remark", (Msg,), {"__module__": __name__})


Remark = _remark()
