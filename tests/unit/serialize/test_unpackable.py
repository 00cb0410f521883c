"""Objects that cannot be packed: the error names them."""

from __future__ import annotations

import collections
import pickle

import pytest

import qmill
from qmill.packing import explain, serialize
from qmill.packing.serialize import Exports, dumps

from .channel import LOCK, Process, Refused, Unprintable


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
