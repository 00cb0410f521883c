"""What functions of a program use as globals: found, watched, and let go of."""

from __future__ import annotations

import functools
import gc
import math
import sys
import threading
import types
import weakref

import pytest

import qmill
from qmill.engines.functions import Functions
from qmill.packing import definitions, serialize
from qmill.packing.watch import CONTENT_BYTES


@pytest.fixture
def main(monkeypatch):
    """A program's `__main__`, which cannot be imported."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


@pytest.fixture
def functions():
    return Functions(serialize.Exports(definitions.Names.INSTEAD, apart=True), by_name=True)


def define(main, source):
    exec(source, vars(main))


def names_of(moment):
    return sorted(name for _, name in moment.environment.bindings)


def test_a_function_of_a_module_has_no_environment(functions):
    moment = functions.of(math.hypot), functions.of(test_a_function_of_a_module_has_no_environment)
    assert [one.environment for one in moment] == [None, None]


def test_the_names_of_helpers_and_classes_belong_to_it(main, functions):
    define(
        main,
        """
a = b = c = d = e = unused = 1
def helper(): return a
class Base:
    def method(self): return b
class Derived(Base):
    @property
    def value(self): return c
def f(x):
    def inner(): return d
    return helper(), Derived(), inner, [e for _ in x], len(x)
""",
    )
    assert names_of(functions.of(main.f)) == ["Derived", "a", "b", "c", "d", "e", "helper"]


def test_as_long_as_nothing_changes_the_moment_is_the_same(main, functions):
    define(main, "k, table = 1, {}\ndef f(): return k, table")
    first = functions.of(main.f)
    assert functions.of(main.f) is first
    main.k = 1  # the same object
    assert functions.of(main.f) is first
    main.table["a"] = 1
    second = functions.of(main.f)
    assert second.subject is first.subject
    assert second.environment.bindings != first.environment.bindings
    kept = [
        b for b in second.environment.bindings.items() if b in first.environment.bindings.items()
    ]
    assert [name for (_, name), _ in kept] == ["k"]  # only what has changed is sent


def test_functions_that_use_the_same_names_share_the_values(main, functions):
    define(main, "table = {1: 2}\ndef f(): return table\ndef g(): return table, f")
    f, g = functions.of(main.f).environment, functions.of(main.g).environment
    assert f.bindings.items() <= g.bindings.items()


def test_tuples_of_functions_are_looked_into(main, functions):
    define(main, "k = 1\ndef one(): return k\nALL = one,\ndef f(): return [each() for each in ALL]")
    assert names_of(functions.of(main.f)) == ["ALL", "k"]


def test_each_change_in_a_row_is_let_go_of_in_the_end(main, functions):
    define(main, "k, table = 0, {}\ndef f(): return k, table")
    for number in range(2000):
        main.k = number
        main.table[number % 7] = number
        functions.of(main.f)
    assert len(functions._alive) < 10


@pytest.mark.parametrize("kind", ["recursive closure", "class in a closure", "partial", "lambda"])
def test_functions_are_not_kept_alive(functions, kind):
    def make():
        class Local:
            def method(self):
                return Local

        def recursive(n):
            return n and recursive(n - 1)

        local = Local()
        return {
            "recursive closure": recursive,
            "class in a closure": lambda: local.method(),
            "partial": functools.partial(recursive, 1),
            "lambda": lambda: 1,
        }[kind]

    function = make()
    functions.of(function)
    gone = weakref.ref(function)
    del function
    gc.collect()
    assert gone() is None
    functions.of(max)
    gc.collect()
    assert len(functions._versions) <= 1


@pytest.mark.parametrize(
    ("value", "is_watched"),
    [
        ([0] * 10, True),
        (bytearray(CONTENT_BYTES), False),
        ({"x": "y" * CONTENT_BYTES}, False),
        (bytearray(CONTENT_BYTES // 2), True),
    ],
)
def test_the_content_of_small_objects_is_watched(main, functions, value, is_watched):
    define(main, "def f(): return table")
    main.table = value
    first = functions.of(main.f)
    (value.append if isinstance(value, (list, bytearray)) else value.pop)(
        "x" if isinstance(value, dict) else 1
    )
    if is_watched:
        assert functions.of(main.f) is not first
    else:
        with pytest.warns(RuntimeWarning, match="the global 'table'"):
            assert functions.of(main.f) is first
        assert functions.of(main.f) is first  # and is told once
    main.table = [1]
    assert functions.of(main.f) is not first


def test_what_cannot_be_sent_is_named_with_the_way_to_it(main, functions):
    define(main, "def helper(): return lock\ndef f(): return helper()")
    main.lock = threading.Lock()
    with pytest.raises(qmill.SerializationError) as told:
        functions.of(main.f)
    assert "f -> global 'helper' -> global 'lock'" in str(told.value)
    assert "a _thread.lock" in str(told.value)


def test_a_class_in_arguments_brings_what_its_methods_use(main, functions):
    define(main, "k = 1\nclass Scale:\n    def method(self): return k")
    found = functions.with_objects(None, [main.Scale])
    assert [name for _, name in found.bindings] == ["k"]
    assert functions.with_objects(None, [main.Scale]) is found
    main.k = 2
    assert functions.with_objects(None, [main.Scale]) is not found


def things_in_worker():
    (learnt,) = (each for each in gc.get_objects() if type(each).__name__ == "Learnt")
    return len(learnt._things), len(learnt._packed), len(learnt.packed)


def test_a_worker_keeps_nothing_of_versions_that_are_gone():
    number = [0]
    with qmill.JobQueue(1) as jobs:
        for step in range(300):
            number[0] = step
            assert jobs.submit(lambda: number[0]).result() == step
        things, packed, definitions = jobs.submit(things_in_worker).result()
    assert things < 100
    assert packed < 100
    assert definitions == 0
