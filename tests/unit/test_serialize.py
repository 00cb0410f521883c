"""`qmill.packing.serialize`: objects to bytes and back, and the errors when that is impossible."""

from __future__ import annotations

import collections
import copyreg
import gc
import pickle
import sys
import threading
import types
from contextlib import contextmanager
from weakref import WeakKeyDictionary, WeakValueDictionary

import cloudpickle.cloudpickle as cp
import numpy
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import qmill
from qmill.packing import explain, serialize
from qmill.packing.serialize import Exports, InlineExports, dump_error, dumps, load_error, loads

LARGE = 4 * serialize.OUT_OF_BAND_BYTES


def there_and_back(obj):
    return loads(dumps(obj))


# -- what stands for two processes and the channel between them -----------------------------------


class Process:
    """What a process has for itself: its `__main__`, the definitions it knows, its classes.

    `with process:` is to be there.
    """

    def __init__(self, source=""):
        self.main = types.ModuleType("__main__")
        self._attributes = [
            (sys.modules, "__main__", self.main),
            (serialize.__dict__, "_keys", WeakKeyDictionary()),
            (serialize.__dict__, "_known", WeakValueDictionary()),
            (cp.__dict__, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", WeakKeyDictionary()),
            (cp.__dict__, "_DYNAMIC_CLASS_TRACKER_BY_ID", WeakValueDictionary()),
        ]
        self.kept = []
        self.run(source)

    def run(self, source):
        """Run a piece of program in its `__main__`."""
        with self:
            exec(source, self.main.__dict__)

    def __getitem__(self, name):
        return self.main.__dict__[name]

    def __enter__(self):
        self._elsewhere = [(where, name, where[name]) for where, name, _ in self._attributes]
        for where, name, value in self._attributes:
            where[name] = value

    def __exit__(self, *_):
        for where, name, value in self._elsewhere:
            where[name] = value


class Channel:
    """Carries objects from one process to another, and each definition once."""

    def __init__(self, sender, reader):
        self.sender, self.reader = sender, reader
        self.exports = Exports()
        self.definitions = {}
        self.fetched = []

    def keep(self, key, built):
        """What a reader builds lives as long as its memory here, not because it is kept."""

    def fetch(self, key):
        self.fetched.append(key)
        return self.definitions[key]

    def pack(self, obj):
        with self.sender:
            packed = dumps(obj, self.exports)
        pending = dict(self.exports.pending)
        assert not self.definitions.keys() & pending.keys(), "a definition crosses once"
        self.definitions |= pending
        self.exports.sent(list(pending))
        return packed

    def send(self, obj):
        packed = self.pack(obj)
        with self.reader:
            return loads(packed, self)


POINT = """
class Point:
    def __init__(self, x):
        self.x = x
    def doubled(self):
        return type(self)(2 * self.x)
    class Inner:
        pass
"""


@pytest.fixture
def sender():
    return Process(POINT)


@pytest.fixture
def reader():
    return Process()


@pytest.fixture
def channel(sender, reader):
    return Channel(sender, reader)


@pytest.fixture
def back(sender, reader):
    return Channel(reader, sender)


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


# -- __main__ -------------------------------------------------------------------------------------


def test_a_class_of_main_crosses_once(channel, sender):
    first = channel.send(sender["Point"](1))
    second = channel.send([sender["Point"](2)])[0]
    assert type(first) is type(second)
    assert second.doubled().x == 4
    assert len(channel.definitions) == 1
    assert len(channel.fetched) == 1


def test_after_the_first_a_message_is_small(channel, sender):
    channel.send(sender["Point"](1))
    assert len(channel.pack(sender["Point"](2))) < 200


def test_a_class_of_main_comes_home_as_itself(channel, back, sender, reader):
    there = channel.send(sender["Point"](1))
    with reader:
        doubled = there.doubled()
    home = back.send(doubled)
    assert type(home) is sender["Point"]
    assert home.x == 2
    assert back.definitions == {} or not back.fetched


def test_a_class_itself_comes_home_as_itself(channel, back, sender):
    assert back.send(channel.send(sender["Point"])) is sender["Point"]


def test_a_nested_class_of_main(channel, back, sender):
    there = channel.send(sender["Point"].Inner())
    assert type(back.send(there)) is sender["Point"].Inner


def test_outer_and_nested_class_are_the_same_classes_however_they_cross(channel, sender):
    inner = channel.send(sender["Point"].Inner())
    point = channel.send(sender["Point"])
    assert point.Inner is type(inner)


def test_a_function_of_main_crosses_once_and_comes_home(channel, back, sender):
    sender.run("FACTOR = 3\ndef scaled(x): return FACTOR * x")
    there = channel.send(sender["scaled"])
    assert there(2) == 6
    assert channel.send(sender["scaled"]) is there
    assert len(channel.definitions) == 1
    assert back.send(there) is sender["scaled"]


def test_a_local_class_of_mains_function_comes_home_as_itself(channel, back, sender):
    sender.run("def make():\n class Local: pass\n return Local")
    local = sender["make"]()
    there = channel.send(local())
    assert type(there).__name__ == "Local"
    assert type(back.send(there)) is local


def test_a_subclass_is_a_subclass_there(channel, sender):
    sender.run("class Pixel(Point): pass")
    pixel = channel.send(sender["Pixel"](1))
    point = channel.send(sender["Point"](1))
    assert isinstance(pixel, type(point))


def test_a_subclass_is_a_subclass_there_in_the_other_order(channel, sender):
    sender.run("class Pixel(Point): pass")
    point = channel.send(sender["Point"](1))
    pixel = channel.send(sender["Pixel"](1))
    assert isinstance(pixel, type(point))


def test_what_a_subclass_brought_along_comes_home_as_itself(channel, back, sender, reader):
    sender.run("class Pixel(Point): pass")
    pixel = channel.send(sender["Pixel"](1))
    with reader:
        point = type(pixel).__mro__[1](5)
    assert type(back.send(point)) is sender["Point"]


def test_an_exception_class_of_main(channel, back, sender):
    sender.run("class Failure(Exception): pass")
    there = channel.send(sender["Failure"]("text"))
    home = back.send(there)
    assert type(home) is sender["Failure"]
    assert home.args == ("text",)


def test_an_enum_of_main_has_the_same_members(channel, back, sender):
    sender.run("import enum\nclass Color(enum.Enum):\n RED = 1\n BLUE = 2")
    there = channel.send([sender["Color"].RED, sender["Color"]])
    assert there[0] is there[1].RED
    assert back.send(there[0]) is sender["Color"].RED


def test_a_redefined_class_is_another_class(channel, back, sender):
    old = channel.send(sender["Point"](1))
    old_class = sender["Point"]
    sender.run(POINT.replace("2 *", "3 *"))
    new = channel.send(sender["Point"](1))
    assert type(new) is not type(old)
    assert new.doubled().x == 3
    assert old.doubled().x == 2
    assert type(back.send(new)) is sender["Point"]
    assert type(back.send(old)) is old_class


def test_an_instance_of_a_class_that_was_redefined_before_it_ever_crossed(channel, back, sender):
    old_class, old = sender["Point"], sender["Point"](1)
    sender.run(POINT.replace("2 *", "3 *"))
    there = channel.send(old)
    assert there.doubled().x == 2
    assert type(back.send(there)) is old_class


def test_a_reader_with_its_own_definition_of_that_name_uses_it(channel, reader, sender):
    reader.run(POINT.replace("2 *", "10 *"))
    there = channel.send(sender["Point"](1))
    assert type(there) is reader["Point"]
    assert there.doubled().x == 10
    assert channel.fetched == []


def test_a_readers_mp_main_counts_as_its_main(channel, reader, sender, monkeypatch):
    module = types.ModuleType("__mp_main__")
    exec(POINT, module.__dict__)
    monkeypatch.setitem(sys.modules, "__mp_main__", module)
    assert type(channel.send(sender["Point"](1))) is module.Point


def test_foreign_names_in_the_readers_main_are_not_taken_for_the_definition(channel, reader):
    # What a fork server's __main__ may hold: another module's things under the same name.
    channel.sender.run("def deepcopy(x): return ('mine', x)")
    reader.run("from copy import deepcopy")
    assert channel.send(channel.sender["deepcopy"])(1) == ("mine", 1)


def test_an_instance_in_the_readers_main_is_not_taken_for_the_class(channel, reader, sender):
    # The singleton idiom: `Point = Point(0)`. An instance, too, has __module__ == "__main__".
    reader.run(POINT + "\nPoint = Point(0)")
    there = channel.send(sender["Point"](1))
    assert isinstance(type(there), type)
    assert there.x == 1


def test_a_function_of_the_readers_main_is_not_taken_for_the_class(channel, reader, sender):
    reader.run("def Point(x): return 'not it'")
    assert channel.send(sender["Point"](1)).x == 1


def test_a_class_of_main_in_a_large_message(channel, back, sender):
    array = numpy.arange(LARGE, dtype="u1")
    there = channel.send((sender["Point"](array), array))
    assert type(there[0]).__name__ == "Point"
    assert (there[0].x == array).all()
    assert there[0].x is there[1]
    assert type(back.send(there)[0]) is sender["Point"]


def test_two_readers_of_one_definition_store_each_build_it(channel, sender):
    packed = channel.pack(sender["Point"](1))
    for other in (Process(), Process()):
        with other:
            assert loads(packed, channel).doubled().x == 2


def test_what_failed_to_pack_does_not_spoil_the_next_message(channel, sender):
    with sender, pytest.raises(qmill.SerializationError):
        dumps([sender["Point"](1), threading.Lock()], channel.exports)
    assert channel.send(sender["Point"](2)).x == 2


def test_without_a_definition_the_error_names_it(channel, sender, reader):
    packed = channel.pack(sender["Point"](1))
    with reader, pytest.raises(qmill.SerializationError, match=r"__main__\.Point"):
        loads(packed)
    channel.definitions.clear()
    with reader, pytest.raises(qmill.SerializationError, match=r"__main__\.Point"):
        loads(packed, channel)


def test_inline_exports_need_no_channel_and_come_home(sender, reader, back):
    with sender:
        packed = dumps(sender["Point"](1), InlineExports())
    with reader:
        there = loads(packed)
    assert there.doubled().x == 2
    assert type(back.send(there)) is sender["Point"]


def test_without_exports_main_goes_by_value_whole(sender, reader):
    sender.run("STEP = 4\ndef step(x): return x + STEP")
    with sender:
        packed = dumps((sender["step"], sender["Point"](1)))
    with reader:
        step, point = loads(packed)
    assert step(1) == 5
    assert point.doubled().x == 2


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


# -- what cannot be packed ------------------------------------------------------------------------

LOCK = threading.Lock()


class Holder:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("fine", "lock")

    def __init__(self):
        self.fine = 1
        self.lock = LOCK


class SlottedChild(Slotted):
    __slots__ = ("more",)


class Refused:
    """Says no, and why."""

    def __init__(self, key=0):
        self.key = key

    def __reduce__(self):
        raise ValueError("I stay here")


class Unprintable(Refused):
    def __repr__(self):
        raise RuntimeError("no repr today")


class Wordy(Refused):
    def __repr__(self):
        return "w" * 100_000


class DictWithLock(dict):
    pass


def dict_with_lock():
    odd = DictWithLock(a=1)
    odd.lock = LOCK
    return odd


def closure_over(value):
    return lambda: value


def default_of(value):
    return lambda x=value: x


class Hostile(Refused):
    """Whoever looks at an attribute that is not there gets an error of another kind."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")


class WithHostileSlot(Refused):
    @property
    def __dict__(self):
        raise RuntimeError("no __dict__")


@pytest.mark.parametrize(
    ("obj", "told"),
    [
        (LOCK, ["the object", "_thread.lock"]),
        ({"a": 1, "b": LOCK}, ["obj['b']", "_thread.lock"]),
        ({"a": [1, {"b": LOCK}]}, ["obj['a'][1]['b']"]),
        ([0, LOCK], ["obj[1]"]),
        ((0, (LOCK,)), ["obj[1][0]"]),
        ({LOCK: 1}, ["key", "_thread.lock"]),
        ({(1, LOCK): 1}, ["key", "[1]", "_thread.lock"]),
        ({LOCK}, ["element", "_thread.lock"]),
        (Holder(conn=Holder(lock=LOCK)), ["obj.conn.lock"]),
        (Slotted(), ["obj.lock"]),
        (SlottedChild(), ["obj.lock"]),
        (Holder(lock=LOCK).__init__, ["__self__.lock"]),
        (closure_over(LOCK), ["closure variable 'value'"]),
        (closure_over({"x": LOCK}), ["closure variable 'value'['x']"]),
        (default_of(LOCK), ["default", "_thread.lock"]),
        (Refused(), ["Refused", "I stay here"]),
        ([Unprintable()], ["obj[0]", "Unprintable", "I stay here"]),
        ({"k": Unprintable()}, ["obj['k']", "Unprintable"]),
        ({Unprintable(): 1}, ["key", "Unprintable"]),
        (default_of(Unprintable()), ["Unprintable"]),
        ([Hostile()], ["obj[0]", "Hostile"]),
        (WithHostileSlot(), ["WithHostileSlot", "I stay here"]),
        (dict_with_lock(), ["obj.lock"]),
        (collections.deque([1, LOCK]), ["lock"]),
    ],
    ids=lambda value: None if isinstance(value, list) else type(value).__name__,
)
def test_the_error_names_the_object_and_the_path(obj, told):
    """PAINS 6: an item that cannot be pickled vanishes or hangs."""
    with pytest.raises(qmill.SerializationError) as info:
        dumps(obj)
    for piece in told:
        assert piece in str(info.value)
    assert isinstance(info.value, pickle.PicklingError)


def test_an_unpicklable_global_is_named_with_advice():
    process = Process(
        "import threading\nGUARD = threading.Lock()\ndef work(): return GUARD.locked()"
    )
    with process, pytest.raises(qmill.SerializationError) as info:
        dumps(process["work"])
    assert "'GUARD'" in str(info.value)
    assert "_thread.lock" in str(info.value)
    assert "start_method='fork'" in str(info.value)


def test_an_unpicklable_global_is_named_through_a_channel():
    process = Process(
        "import threading\nGUARD = threading.Lock()\ndef work(): return GUARD.locked()"
    )
    with process, pytest.raises(qmill.SerializationError, match="'GUARD'"):
        dumps([process["work"]], Exports())


def test_the_original_error_is_the_cause():
    with pytest.raises(qmill.SerializationError) as info:
        dumps(Refused())
    assert isinstance(info.value.__cause__, ValueError)


def nested(levels, wrap):
    """Wrap an object again and again; `let_down` it, since its destruction would recurse, too."""
    deep = wrap(None)
    for _ in range(levels - 1):
        deep = wrap(deep)
    return deep


def let_down(deep, unwrap):
    while deep is not None:
        deep = unwrap(deep)


@pytest.mark.parametrize(
    ("wrap", "unwrap", "step"),
    [
        (lambda x: [x], lambda x: x.pop(), "[0]"),
        (lambda x: (1, x), lambda x: x[1], "[1]"),
        (lambda x: {"next": x}, lambda x: x.pop("next"), "['next']"),
        (lambda x: Holder(next=x), lambda x: vars(x).pop("next"), ".next"),
    ],
    ids=["list", "tuple", "dict", "object"],
)
def test_too_deep_an_object_is_an_error_that_tells_how_deep_and_where(wrap, unwrap, step):
    deep = nested(100_000, wrap)
    with pytest.raises(qmill.SerializationError) as info:
        dumps({"fine": [1, 2], "deep": deep})
    let_down(deep, unwrap)
    told = str(info.value)
    assert "nested too deeply" in told
    assert f"more than {explain._MAX_LEVELS} levels, at obj['deep']{step}{step}" in told
    assert len(told) < 2000
    assert isinstance(info.value.__cause__, RecursionError)


def test_the_levels_of_too_deep_an_object_are_counted():
    deep = nested(700, lambda x: Holder(next=x))
    told = str(explain.explain(deep, RecursionError("too deep")))
    assert "nested too deeply (700 levels, at obj.next.next" in told


def test_too_deep_an_object_is_packed_once(monkeypatch):
    """Its refusal took a second try by cloudpickle, and one for each part on the way down."""

    def refuse(*args):
        raise AssertionError("the careful way goes as deep")

    monkeypatch.setattr(serialize, "_dump_carefully", refuse)
    monkeypatch.setattr(explain, "_pack", refuse)
    deep = nested(100_000, lambda x: [x])
    with pytest.raises(qmill.SerializationError, match="nested too deeply"):
        dumps(deep)
    let_down(deep, lambda x: x.pop())


def test_code_that_calls_itself_is_not_taken_for_too_deep_an_object():
    class Endless:
        def __getstate__(self):
            return self.__getstate__()

    with pytest.raises(qmill.SerializationError) as info:
        dumps([nested(50, lambda x: [x]), Endless()])
    assert "nested" not in str(info.value)
    assert "obj[1]" in str(info.value)
    assert "RecursionError" in str(info.value)


def test_what_is_too_deep_and_out_of_sight_is_told_with_what_holds_it():
    class Hidden:
        def __init__(self, deep):
            self.deep = deep

        def __reduce__(self):
            return Hidden, (("hidden", self.deep),)

    deep = nested(100_000, lambda x: [x])
    with pytest.raises(qmill.SerializationError, match=r"obj\[1\].*Hidden.*recursion"):
        dumps([1, Hidden(deep)])
    let_down(deep, lambda x: x.pop())


def test_an_unpicklable_object_in_a_cycle():
    cycle = [LOCK]
    cycle.insert(0, cycle)
    with pytest.raises(qmill.SerializationError, match=r"_thread\.lock"):
        dumps(cycle)


def count_looks(monkeypatch):
    """Count how many parts are packed, or listed, while a culprit is looked for."""
    looks = []
    pack, parts = explain._pack, explain._parts

    def counted_pack(obj):
        packed = pack(obj)
        looks.extend(packed or range(explain._MAX_PARTS))
        return packed

    def counted_parts(*args):
        for found in parts(*args):
            looks.append(found)
            yield found

    monkeypatch.setattr(explain, "_pack", counted_pack)
    monkeypatch.setattr(explain, "_parts", counted_parts)
    return looks


@pytest.mark.parametrize(
    "obj",
    [
        [*range(1000, 50_000), LOCK],
        {**dict.fromkeys(range(50_000)), "lock": LOCK},
        [[[n] for n in range(10_000)], {"data": b"x" * 100}, Holder(lock=LOCK)],
    ],
    ids=["list", "dict", "many lists"],
)
def test_the_culprit_is_found_by_looking_at_each_part_a_few_times(obj, monkeypatch):
    looks = count_looks(monkeypatch)
    with pytest.raises(qmill.SerializationError, match=r"_thread\.lock"):
        dumps(obj)
    assert len(looks) < 250_000


def test_a_culprit_at_the_bottom_is_found_without_packing_every_level(monkeypatch):
    looks = count_looks(monkeypatch)
    deep = LOCK
    for number in range(80):
        deep = Holder(data=[number] * 100, inner=deep)
    with pytest.raises(qmill.SerializationError, match=r"obj\.inner\.inner.*_thread\.lock"):
        dumps(deep)
    assert len(looks) < 50_000  # 80 levels of 8,000 parts and more are 640,000


def test_of_too_large_an_object_the_search_is_bounded(monkeypatch):
    monkeypatch.setattr(explain, "_MAX_PARTS", 1000)
    looks = count_looks(monkeypatch)
    with pytest.raises(qmill.SerializationError, match=r"the object, a builtins\.list.*lock"):
        dumps([*range(1000, 50_000), LOCK])
    assert len(looks) <= 2 * explain._MAX_PARTS


def test_a_culprit_that_only_a_reduce_shows_is_told_with_what_holds_it():
    class Hidden:
        def __reduce__(self):
            return Hidden, ({"secret": [LOCK]},)

    with pytest.raises(qmill.SerializationError, match=r"obj\.a\['b'\], a .*Hidden.*_thread\.lock"):
        dumps(Holder(a={"b": Hidden(), "c": 3}))


def test_a_culprit_whose_parts_are_all_fine():
    class Late:
        def __reduce__(self):
            return list, (["fine", 1],), None, iter([1, 2, "three"]), None, "no function"

    with pytest.raises(qmill.SerializationError, match=r"obj\[1\]\.late, a .*Late"):
        dumps([["fine"], Holder(late=Late(), other="three")])


def test_a_huge_repr_is_cut():
    with pytest.raises(qmill.SerializationError) as info:
        dumps({"x" * 100_000: [Refused("y" * 100_000), Wordy()]})
    assert len(str(info.value)) < 2000


def test_a_keyboard_interrupt_while_packing_stays_one():
    class Interrupts:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dumps(Interrupts())


# -- what cannot be rebuilt -----------------------------------------------------------------------


class Unrebuildable:
    def __init__(self):
        self.state = 1

    def __setstate__(self, state):
        raise ValueError("not here")


@contextmanager
def module(name, source):
    sys.modules[name] = found = types.ModuleType(name)
    exec(source, found.__dict__)
    try:
        yield found
    finally:
        del sys.modules[name]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": (x,)}])
def test_an_object_that_cannot_be_rebuilt_is_named(wrap):
    data = dumps(wrap(Unrebuildable()))
    with pytest.raises(qmill.SerializationError, match=r"Unrebuildable.*not here"):
        loads(data)


def test_a_module_that_is_not_there_is_named():
    with module("only_there", "class Thing: pass") as there:
        data = dumps([there.Thing()])
    with pytest.raises(qmill.SerializationError, match=r"only_there\.Thing.*only_there"):
        loads(data)


def test_an_object_with_buffers_that_cannot_be_rebuilt_is_named():
    odd = Unrebuildable()
    odd.state = numpy.zeros(LARGE, dtype="u1")
    data = dumps(odd)
    with pytest.raises(qmill.SerializationError, match="Unrebuildable"):
        loads(data)


def test_an_object_of_main_that_cannot_be_rebuilt_is_named(channel, sender):
    sender.run("class Odd:\n def __setstate__(self, s): raise ValueError('no')")
    sender.run("odd = Odd(); odd.x = 1")
    packed = channel.pack(sender["odd"])
    with channel.reader, pytest.raises(qmill.SerializationError, match=r"Odd.*no"):
        loads(packed, channel)


@pytest.mark.parametrize(
    "obj",
    [["text", 1], lambda: 1, numpy.zeros(LARGE, dtype="u1")],
    ids=["plain", "by value", "array"],
)
@pytest.mark.parametrize("kept", [1, 5, 30, "half"])
def test_damaged_data_is_an_error(obj, kept):
    data = dumps(obj)
    kept = len(data) // 2 if kept == "half" else min(kept, len(data) // 2)
    with pytest.raises(qmill.SerializationError):
        loads(data[:kept])


# -- exceptions -----------------------------------------------------------------------------------


class OddInit(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = LOCK


class BrokenStr(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class BrokenReduce(Exception):
    def __reduce__(self):
        raise ValueError("no")


class RebuiltAsText(Exception):
    def __reduce__(self):
        return str, ("not an exception",)


class RebuildExits(Exception):
    def __reduce__(self):
        return sys.exit, (3,)


def raised(error):
    """Return the error with a traceback, as an `except` gets it."""
    try:
        raise error
    except BaseException as caught:
        return caught


def crossed(error):
    return load_error(dump_error(raised(error)))


@pytest.mark.parametrize(
    "error", [ValueError("text", 3), KeyError("k"), OSError(2, "no"), KeyboardInterrupt()], ids=repr
)
def test_an_exception_crosses(error):
    same = crossed(error)
    assert type(same) is type(error)
    assert same.args == error.args


def test_the_remote_traceback_is_the_cause():
    cause = crossed(ValueError("text")).__cause__
    assert isinstance(cause, serialize.RemoteTraceback)
    assert "in raised" in str(cause)
    assert "ValueError: text" in str(cause)


def test_the_remote_traceback_has_the_causes_of_the_remote_exception():
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first
    except ValueError as error:
        same = load_error(dump_error(error))
    assert "KeyError: 'first'" in str(same.__cause__)


def test_notes_are_kept():
    error = ValueError("text")
    error.add_note("while reading line 3")
    same = crossed(error)
    assert same.__notes__ == ["while reading line 3"]
    assert "while reading line 3" in str(same.__cause__)


def test_attributes_are_kept():
    error = ValueError("text")
    error.line = 3
    assert crossed(error).line == 3


def test_an_exception_group_crosses():
    same = crossed(ExceptionGroup("several", [ValueError(1), KeyError(2)]))
    assert [type(inner) for inner in same.exceptions] == [ValueError, KeyError]


@pytest.mark.parametrize(
    "error",
    [OddInit(3, "odd"), Unpicklable("odd"), BrokenReduce("odd"), RebuiltAsText("odd")],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_cannot_cross_comes_wrapped(error):
    """PAINS 7: an exception that cannot be unpickled hangs the pool."""
    same = crossed(error)
    assert isinstance(same, qmill.SerializationError)
    assert type(error).__name__ in str(same)
    assert "odd" in str(same)
    assert "in raised" in str(same.__cause__)


class Traced(Exception):
    """What a program has had copyreg pack with its frames, as tblib does."""


def _reduce_traced(error):
    assert error.__traceback__ is None, "frames are packed"
    return Traced, error.args


def test_an_error_travels_without_its_frames_whatever_copyreg_is_told(monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, Traced, _reduce_traced)
    error = raised(Traced("outer"))
    error.__cause__ = raised(Traced("cause"))
    error.__context__ = error  # a cycle
    same = load_error(dump_error(ExceptionGroup("group", [error])))
    assert type(same.exceptions[0]) is Traced


@pytest.mark.parametrize("error", [BrokenStr("odd"), Unpicklable(Unprintable())])
def test_dump_error_never_fails(error):
    """PAINS 7: an exception that cannot be unpickled hangs the pool."""
    same = crossed(error)
    assert type(error).__name__ in f"{type(same).__name__} {same.__cause__}"


def test_an_exception_whose_rebuilding_exits_does_not_end_the_reader():
    """PAINS 7: an exception that cannot be unpickled hangs the pool."""
    assert isinstance(crossed(RebuildExits()), Exception)


def test_a_local_exception_class_keeps_its_identity():
    class Local(Exception):
        pass

    assert type(crossed(Local("x"))) is Local


def test_an_exception_class_of_the_workers_main_needs_no_channel(sender, reader):
    sender.run("class Failure(Exception): pass")
    with sender:
        packed = dump_error(raised(sender["Failure"]("x")))
    with reader:
        same = load_error(packed)
    assert type(same).__name__ == "Failure"
    assert same.args == ("x",)


# -- any object -----------------------------------------------------------------------------------

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from([Ellipsis, int, len, "__main__", b"__main__", "\x80"])
)
hashables = st.recursive(
    atoms,
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)


@st.composite
def graphs(draw):
    """A nested object with shared references and cycles."""
    nodes = [[], {}, set(), bytearray(draw(st.binary(max_size=20)))]
    for _ in range(draw(st.integers(0, 8))):
        target = draw(st.sampled_from(nodes))
        if isinstance(target, set):
            target.add(draw(hashables))
            continue
        if isinstance(target, bytearray):
            continue
        child = draw(
            st.sampled_from(nodes)
            | hashables
            | st.builds(list)
            | st.builds(dict)
            | st.builds(lambda node, leaf: (node, leaf), st.sampled_from(nodes), hashables)
        )
        if isinstance(child, (list, dict)) and not any(child is node for node in nodes):
            nodes.append(child)
        if isinstance(target, list):
            target.append(child)
        else:
            target[draw(hashables)] = child
    return nodes


def assert_same_shape(one, other):
    """Compare two object graphs: types, values, and which references are to one object."""
    pairs, todo = {}, [(one, other)]
    while todo:
        left, right = todo.pop()
        assert type(left) is type(right)
        if not isinstance(left, (list, dict, set, bytearray, tuple)):
            assert left == right
            continue
        if not isinstance(left, tuple):  # pickle may make two equal tuples of one, and does not
            if id(left) in pairs:
                assert pairs[id(left)] == id(right)
                continue
            assert id(right) not in pairs.values()
            pairs[id(left)] = id(right)
        if isinstance(left, (set, bytearray)):
            assert left == right
            continue
        assert len(left) == len(right)
        if isinstance(left, dict):
            assert list(left) == list(right)
            left, right = left.values(), right.values()
        todo += zip(left, right, strict=True)


@pytest.mark.parametrize("way", ["plain", "channel", "inline"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(obj=graphs())
def test_any_nested_object_round_trips(way, obj):
    exports = {"plain": None, "channel": Exports(), "inline": InlineExports()}[way]
    assert_same_shape(obj, loads(dumps(obj, exports)))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(obj=graphs())
def test_any_nested_object_round_trips_beside_a_closure(obj):
    same, function = there_and_back((obj, lambda: obj))
    assert function() is same
    assert_same_shape(obj, same)


@pytest.mark.parametrize("more", [None, lambda: None], ids=["plain", "with care"])
def test_types_may_be_reduced_in_another_way(more):
    reducers = {collections.deque: lambda items: (sorted, (tuple(items),))}
    items = collections.deque([3, 1, 2])
    parts = serialize.dump_parts((items, {"a": items}, more), reducers=reducers)
    first, second, _ = serialize.loads(b"".join(parts))
    assert first == [1, 2, 3]
    assert second["a"] is first
    parts = serialize.dump_parts((items, more))
    assert serialize.loads(b"".join(parts))[0] == items
