"""How objects of a script are rebuilt where the script cannot be imported.

`tests/examples/script_kinds` tries what scripts define, one by one. Here is what holds for all.
"""

from __future__ import annotations

import _pydecimal
import collections.abc
import contextvars
import copyreg
import dataclasses
import enum
import functools
import pickle
import struct
import subprocess
import sys
import textwrap
import threading
import typing

import cloudpickle.cloudpickle as cp
import pytest

import qmill
from qmill.packing import class_values, reductions
from qmill.packing.remote_errors import dump_error, load_error
from qmill.packing.serialize import Exports, dumps, loads

needs_312 = pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is of Python 3.12")

READER = """
import pickle, sys
from qmill.packing.serialize import InlineExports, dumps, loads
while True:
    packed, source = pickle.load(sys.stdin.buffer)
    names = {"objects": [loads(one) for one in packed]}
    exec(source, names)
    answer = dumps(names.get("answer"), InlineExports())
    sys.stdout.buffer.write(len(answer).to_bytes(8, "big") + answer)
    sys.stdout.buffer.flush()
"""


class Elsewhere:
    """Another interpreter, which has nothing of what the tests define."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, source, *objects):
        """Run a piece of program there, with these objects, and return its `answer`."""
        packed = [bytes(dumps(one)) for one in objects]
        self._process.stdin.write(pickle.dumps((packed, textwrap.dedent(source))))
        self._process.stdin.flush()
        size = int.from_bytes(self._process.stdout.read(8), "big")
        assert size, "the other interpreter has printed why"
        return loads(self._process.stdout.read(size))

    def back(self, obj):
        """Return what comes home of an object that goes there."""
        return self.run("answer = objects[0]", obj)

    def end(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


@pytest.fixture
def elsewhere():
    one = Elsewhere()
    yield one
    one.end()


def script(source):
    """Return the names that a script defines."""
    names = {"__name__": "__main__"}
    exec(compile(textwrap.dedent(source), "script", "exec", dont_inherit=True), names)
    return names


# -- classes --------------------------------------------------------------------------------------


def test_a_class_is_one_in_each_process_and_comes_home_as_itself(elsewhere):
    class Local:
        __slots__ = ("__x",)

    assert elsewhere.run("kept = answer = objects[0]", Local) is Local
    assert type(elsewhere.back(Local())) is Local
    assert elsewhere.run("answer = len({*objects})", Local, Local) == 1


def test_what_a_reader_changes_in_a_class_stays(elsewhere):
    class Counter:
        total = 0

    count = """
        cls = objects[0]
        import builtins
        builtins.kept = cls
        cls.total += 1
        answer = cls.total
    """
    assert [elsewhere.run(count, Counter) for _ in range(3)] == [1, 2, 3]


def test_a_senders_own_class_is_left_alone():
    class Local:
        x = []

        def method(self):
            return self.x

    dumps(Local())  # copyreg keeps the names of its slots in it
    before = dict(vars(Local))
    assert loads(dumps([Local, Local().method]))[0] is Local
    assert dict(vars(Local)) == before


def test_no_hook_runs_where_a_class_is_rebuilt(elsewhere):
    child = script("""
        hooks = []
        class Meta(type):
            def __prepare__(*args, **keywords):
                hooks.append("prepare")
                return {}
            def __new__(meta, name, bases, namespace, **keywords):
                hooks.append("new")
                return super().__new__(meta, name, bases, namespace, **keywords)
            def __init__(cls, *args, **keywords):
                hooks.append("init")
            def __setattr__(cls, name, value):
                raise AttributeError(name)
        class Noted:
            def __set_name__(self, owner, name):
                hooks.append(name)
        class Base(metaclass=Meta):
            def __init_subclass__(cls, *, key):
                hooks.append(key)
        class Child(Base, key="key"):
            noted = Noted()
            def told():
                return hooks
    """)["Child"]
    told = ["prepare", "new", "init", "prepare", "new", "noted", "key", "init"]
    assert sorted(child.told()) == sorted(told)
    assert elsewhere.run("answer = objects[0].told()", child) == child.told()
    assert elsewhere.run("answer = type(objects[0]).__name__", child) == "Meta"


def test_a_class_whose_bases_forbid_subclasses(elsewhere):
    class Sealed:
        pass

    class Last(Sealed):
        def x(self):
            return 4

    Sealed.__init_subclass__ = classmethod(lambda cls: 1 / 0)
    assert elsewhere.run("answer = objects[0]().x()", Last) == 4


@pytest.mark.parametrize(
    "special",
    [
        {"__len__": lambda cls: 0},
        {"__bool__": lambda cls: False},
        {"__eq__": lambda cls, other: False, "__hash__": lambda cls: 4},
        {"__getattribute__": lambda cls, name: type.__getattribute__(cls, name)},
        {"__call__": lambda cls: "called"},
        {"__instancecheck__": lambda cls, obj: True},
    ],
    ids=lambda special: next(iter(special)),
)
def test_a_class_of_a_strange_metaclass(elsewhere, special):
    cls = type("Meta", (type,), special)("Strange", (), {"x": 4})
    assert elsewhere.run("answer = [one.x for one in objects]", cls, cls) == [4, 4]


def test_slots_are_there_by_name_and_layout(elsewhere):
    class Base:
        __slots__ = ("__hidden", "x")

    class Derived(Base):
        __slots__ = {"y": "The y.", "__dict__": "More."}

    class Both(Derived):
        __slots__ = ("__weakref__",)

    there = """
        both, base = objects[0]()  , objects[0].__mro__[2]()
        both.x = both.y = both.z = 1
        answer = hasattr(base, "__dict__"), vars(both), type(both).__basicsize__
    """
    assert elsewhere.run(there, Both) == (False, {"z": 1}, Both.__basicsize__)
    assert elsewhere.run("answer = objects[0].__mro__[1].__slots__", Both) == Derived.__slots__
    one = Both()
    one.x, one.z = 1, 2
    back = elsewhere.back(one)
    assert type(back) is Both
    assert (back.x, back.z, hasattr(back, "y")) == (1, 2, False)


def test_empty_slots_of_base_and_child_that_are_one_object(elsewhere):
    class Base:
        __slots__ = ()

    class Child(Base):
        __slots__ = Base.__slots__

    assert elsewhere.run("answer = hasattr(objects[0](), '__dict__')", Child) is False


def test_a_class_that_was_registered_with_abstract_classes(elsewhere):
    class Own:
        pass

    class Rows:
        pass

    collections.abc.Hashable.register(Own)
    collections.abc.MutableSequence.register(Rows)
    there = """
        import collections.abc
        answer = [issubclass(objects[0], one) for one in
                  (collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Set)]
    """
    assert elsewhere.run(there, Rows) == [True, True, False]


def test_how_copyreg_reduces_a_class_goes_with_it(elsewhere):
    class Kept:
        def __init__(self, x):
            self.x, self.lock = x, threading.Lock()

    copyreg.pickle(Kept, lambda kept: (Kept, (kept.x,)))
    assert elsewhere.back(Kept(4)).x == 4
    del copyreg.dispatch_table[Kept]


def test_a_class_that_two_threads_rebuild_at_once_is_whole_for_both(monkeypatch):
    class Local:
        x = 4

    packed = dumps(Local)
    for tracker in ("_BY_CLASS", "_BY_ID"):
        monkeypatch.setattr(
            f"cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER{tracker}",
            type(getattr(cp, f"_DYNAMIC_CLASS_TRACKER{tracker}"))(),
        )
    first_is_filling, second_is_done = threading.Event(), threading.Event()
    fill = class_values._fill_class

    def slow_fill(cls, state):
        if threading.current_thread() is first:
            first_is_filling.set()
            assert second_is_done.wait(10)
        fill(cls, state)

    monkeypatch.setattr(class_values, "_fill_class", slow_fill)
    built = []
    first = threading.Thread(target=lambda: built.append(loads(packed)))
    first.start()
    assert first_is_filling.wait(10)
    second = loads(packed)
    assert second.x == 4
    second_is_done.set()
    first.join()
    assert built == [second]


def test_a_class_that_failed_to_fill_is_filled_the_next_time(monkeypatch):
    class Local:
        x = 4

    packed = dumps(Local)
    tracker_by_id = type(cp._DYNAMIC_CLASS_TRACKER_BY_ID)()
    monkeypatch.setattr(cp, "_DYNAMIC_CLASS_TRACKER_BY_ID", tracker_by_id)
    with monkeypatch.context() as broken:
        broken.setattr(class_values, "_fill_class", lambda *_: 1 / 0)
        with pytest.raises(qmill.SerializationError, match="ZeroDivisionError"):
            loads(packed)
    assert loads(packed).x == 4


# -- enumerations ---------------------------------------------------------------------------------


def test_members_are_keys_of_what_methods_use(elsewhere):
    names = script("""
        import enum
        class Side(enum.Flag):
            LEFT = 1
            RIGHT = 2
            def weight(self):
                return WEIGHTS[self]
        WEIGHTS = {Side.LEFT: 1, Side.RIGHT: 2, Side.LEFT | Side.RIGHT: 3}
    """)
    side = names["Side"]
    both = side.LEFT | side.RIGHT
    assert elsewhere.run("answer = objects[0].weight()", both) == 3
    there = "answer = objects[0] | type(objects[1]).RIGHT, objects[0] is objects[1].LEFT"
    assert elsewhere.run(there, side.LEFT, side.LEFT) == (both, True)
    assert elsewhere.back(both) is both


def test_combinations_that_were_made_before_do_not_hinder(elsewhere):
    class Bits(enum.IntFlag):
        ONE = 1

    assert Bits(9).value == 9
    assert elsewhere.run("answer = int(type(objects[0])(9))", Bits.ONE) == 9


def test_members_of_classes_with_state(elsewhere):
    import datetime

    class Holiday(datetime.date, enum.Enum):
        NEW_YEAR = 2026, 1, 1

    class Named(str, enum.Enum):  # noqa: UP042 (as people write it)
        FIRST = "first"

        def __init__(self, value):
            self.partner = [self]

        def __str__(self):
            return "shown"

    assert elsewhere.run("answer = objects[0].day, objects[0].value", Holiday.NEW_YEAR) == (
        1,
        datetime.date(2026, 1, 1),
    )
    assert elsewhere.back(Holiday.NEW_YEAR) is Holiday.NEW_YEAR
    there = "one = objects[0]; answer = one.partner[0] is one, str(one), one == 'first'"
    assert elsewhere.run(there, Named.FIRST) == (True, "shown", True)


def test_an_enumeration_stays_one(elsewhere):
    class Color(enum.Enum):
        RED = 1
        ROUGE = 1

    there = """
        cls = type(objects[0])
        try:
            class More(cls): pass
        except TypeError:
            try:
                cls.RED = 2
            except AttributeError:
                answer = list(cls) == [cls.RED], cls.ROUGE is cls(1) is cls["ROUGE"], repr(cls.RED)
    """
    assert elsewhere.run(there, Color.RED) == (True, True, "<Color.RED: 1>")


# -- functions ------------------------------------------------------------------------------------


def make_account():
    balance = 0

    def pay(amount):
        nonlocal balance
        balance += amount

    class Reader:
        def read(self):
            return balance

    return pay, lambda: balance, Reader


def test_closures_share_their_variables(elsewhere):
    there = """
        pay, read, Reader = objects[0]
        pay(3)
        answer = read(), Reader().read()
    """
    assert elsewhere.run(there, make_account()) == (3, 3)


def test_closures_of_different_calls_do_not_share(elsewhere):
    there = """
        (pay, read, _), (_, other_read, _) = objects[0]
        pay(3)
        answer = read(), other_read()
    """
    assert elsewhere.run(there, (make_account(), make_account())) == (3, 0)


def test_an_object_in_a_closure_is_the_one_beside_it(elsewhere):
    items = []
    there = "add, items = objects[0]; add(1); answer = items"
    assert elsewhere.run(there, (lambda item: items.append(item), items)) == [1]


def test_globals_that_only_a_class_body_reads(elsewhere):
    make = script("""
        import dataclasses
        DEFAULT, Kind, unused = 4, int, 5
        def make():
            class Local:
                class Inner:
                    x = DEFAULT
                y: Kind = 2
            return Local
    """)["make"]
    there = "cls = objects[0](); answer = cls.Inner.x, cls.__annotations__"
    assert elsewhere.run(there, make) == (4, {"y": int})
    assert "unused" not in elsewhere.run("answer = set(objects[0].__globals__)", make)


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("maxsize", [None, 0, 2])
def test_a_cache_is_rebuilt_empty_and_works(elsewhere, maxsize, typed):
    @functools.lru_cache(maxsize, typed)
    def double(x):
        """Double it."""
        return 2 * x

    double.label = "label"
    double(1)
    there = """
        double = objects[0]
        before = double.cache_info().currsize
        answer = (before, double(2), double(2), double(2.0), double.cache_info()[:2],
                  double.cache_parameters(), double.label, double.__doc__, double.__wrapped__(3))
    """
    double_here = functools.lru_cache(maxsize, typed)(lambda x: 2 * x)
    numbers = [double_here(x) for x in (2, 2, 2.0)]
    assert elsewhere.run(there, double) == (
        0,
        *numbers,
        double_here.cache_info()[:2],
        {"maxsize": maxsize, "typed": typed},
        "label",
        "Double it.",
        6,
    )
    assert double.cache_info().currsize == (0 if maxsize == 0 else 1)


def test_a_dispatcher_after_calls_and_in_another(elsewhere):
    names = script("""
        import functools, collections.abc
        @functools.singledispatch
        def show(x):
            "Show it."
            return "object"
        @show.register
        def show_int(x: int):
            return show_all([x, 0.5])
        @functools.singledispatch
        def show_all(x):
            return "none"
        @show_all.register(collections.abc.Iterable)
        def show_each(x):
            return [type(one).__name__ if isinstance(one, int) else show(one) for one in x]
        show.label = "label"
    """)
    show = names["show"]
    assert show(1) == ["int", "object"]
    there = """
        show = objects[0]
        show.register(str, lambda x: "str")
        answer = show(1), show("text"), show.__doc__, show.label, show.dispatch(bool)(2)
    """
    expected = (["int", "object"], "str", "Show it.", "label", ["int", "object"])
    assert elsewhere.run(there, show) == expected
    assert show("text") == "object"


def test_an_importable_cache_goes_by_name():
    assert loads(dumps([struct.Struct, functools.lru_cache, typing.get_type_hints]))[0]
    assert loads(dumps((lambda: 0, _cached)))[1] is _cached


@functools.lru_cache
def _cached():
    return 4


# -- objects that are one in each process ---------------------------------------------------------


class Falsy:
    """A sentinel's class as it is often written."""

    __slots__ = ("_label",)

    def __init__(self, label):
        self._label = label

    def __reduce__(self):
        return self._label

    def __bool__(self):
        return False

    def __eq__(self, other):
        raise RuntimeError("compared")

    __hash__ = None


def test_a_sentinel_is_one_in_each_process_and_comes_home(elsewhere):
    for sentinel in (Falsy("NOWHERE"), script(SENTINEL)["MISSING"]):
        assert elsewhere.run("import builtins; builtins.first = answer = objects[0]", sentinel) is (
            sentinel
        )
        assert elsewhere.run("answer = objects[0] is first is objects[1]", sentinel, sentinel)


SENTINEL = """
    class Missing:
        def __init__(self):
            self.more = ["state", self]
        def __reduce__(self):
            return "MISSING"
    MISSING = Missing()
"""


def test_a_sentinel_has_its_state(elsewhere):
    missing = script(SENTINEL)["MISSING"]
    there = "answer = objects[0].more[0], objects[0].more[1] is objects[0]"
    assert elsewhere.run(there, missing) == ("state", True)
    make, args, state = reductions.reduce_sentinel(missing)
    assert type(make(*args)) is type(missing)
    assert state is missing.__dict__ or state == missing.__dict__


def test_a_sentinel_with_arguments_of_new(elsewhere):
    names = script("""
        class Named(str):
            def __new__(cls, text, *, twice=1):
                return super().__new__(cls, text * twice)
            def __getnewargs_ex__(self):
                return (str(self),), {"twice": 1}
            def __reduce__(self):
                return "NAMED"
        NAMED = Named("ab", twice=2)
    """)
    assert elsewhere.run("answer = objects[0] + '!'", names["NAMED"]) == "abab!"


def test_a_sentinel_of_a_module_goes_by_name():
    assert loads(dumps((lambda: 0, MODULE_SENTINEL)))[1] is MODULE_SENTINEL
    assert reductions.reduce(MODULE_SENTINEL) == "MODULE_SENTINEL"


MODULE_SENTINEL = Falsy("MODULE_SENTINEL")


def test_a_context_variable_is_one_in_each_process(elsewhere):
    variable = contextvars.ContextVar("variable", default=4)
    assert elsewhere.run("objects[0].set(5); answer = objects[1].get()", variable, variable) == 5
    assert elsewhere.run("answer = objects[0].name, objects[0].get()", variable) == ("variable", 5)
    assert elsewhere.back(variable) is variable
    assert variable.get() == 4


def test_a_context_variable_of_a_module_goes_by_name(elsewhere):
    there = "import _pydecimal; answer = objects[0] is _pydecimal._current_context_var"
    assert elsewhere.run(there, _pydecimal._current_context_var)


def test_type_variables_are_one_in_each_process(elsewhere):
    variables = [
        typing.TypeVar("T", bound=int),
        typing.TypeVar("U", int, str),
        typing.TypeVar("V", contravariant=True),
        typing.ParamSpec("P"),
        typing.TypeVarTuple("Ts"),
    ]
    assert [elsewhere.back(one) is one for one in variables] == [True] * 5
    there = """
        bound, constrained, variant, *_ = objects[0]
        answer = (bound.__bound__, constrained.__constraints__, variant.__contravariant__,
                  [type(one).__name__ for one in objects[0]], bound.__module__,
                  [one is other for one, other in zip(*objects)])
    """
    assert elsewhere.run(there, variables, variables) == (
        int,
        (int, str),
        True,
        ["TypeVar", "TypeVar", "TypeVar", "ParamSpec", "TypeVarTuple"],
        __name__,
        [True] * 5,
    )


def test_a_type_variable_with_a_default(elsewhere):
    extensions = pytest.importorskip("typing_extensions")
    variable = extensions.TypeVar("T", default=int, infer_variance=True)
    assert elsewhere.back(variable) is variable
    there = "one = objects[0]; answer = one.__name__, one.has_default(), one.__default__"
    assert elsewhere.run(there, variable) == ("T", True, int)


def test_parameters_of_a_parameter_specification(elsewhere):
    P = typing.ParamSpec("P")

    def call(function: typing.Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
        return function(*args, **kwargs)

    there = "call, P = objects[0]; answer = call(len, 'ab'), call.__annotations__['args'] == P.args"
    call.__annotations__ = typing.get_type_hints(call, localns={"P": P})
    assert elsewhere.run(there, (call, P)) == (2, True)


def test_a_generic_class_that_refers_to_itself(elsewhere):
    T = typing.TypeVar("T", bound="Node")

    class Node(typing.Generic[T]):
        pass

    Node.alias = Node[int]
    Node.method = lambda self: None
    Node.method.__annotations__ = {"return": list[Node[T]], "other": Node[T]}
    there = "cls = objects[0]; answer = cls.alias == cls[int], cls.alias.__origin__ is cls"
    assert elsewhere.run(there, Node) == (True, True)
    assert elsewhere.back(Node[int]) == Node[int]


@needs_312
def test_type_parameters_in_their_own_syntax(elsewhere):
    names = script("""
        class Node[T: Node, U: "Text", *Ts, **P]:
            def map[V: (int, str)](self, item: V) -> "Node[V]":
                return item
        type Tree[L: Node] = L | list[Tree[L]]
        def make():
            class Local[T]:
                item: T
                def get(self) -> T: ...
            return Local
    """)
    node, tree = names["Node"], names["Tree"]
    there = """
        node, tree = objects[0]
        first, second, several, rest = node.__type_params__
        (leaf,) = tree.__type_params__
        answer = (first.__bound__ is node, second.__bound__, several.__name__, rest.__name__,
                  node.map.__type_params__[0].__constraints__, first.__module__,
                  leaf.__bound__ is node, tree.__value__ == leaf | list[tree[leaf]], node, tree)
    """
    assert elsewhere.run(there, (node, tree)) == (
        True,
        "Text",
        "Ts",
        "P",
        (int, str),
        node.__type_params__[0].__module__,
        True,
        True,
        node,
        tree,
    )
    assert elsewhere.back(node.__type_params__[0]) is node.__type_params__[0]
    there = "cls = objects[0](); answer = cls.__annotations__['item'] is cls.__type_params__[0]"
    assert elsewhere.run(there, names["make"])


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the syntax is of Python 3.13")
def test_type_parameters_with_defaults_in_their_own_syntax(elsewhere):
    names = script("""
        class First[T: object = int, **P = [int]]: pass
        class Second[*Ts = *tuple[int, str]]: pass
    """)
    there = "answer = [one.__default__ for one in objects[0].__type_params__]"
    for cls in (names["First"], names["Second"]):
        expected = [one.__default__ for one in cls.__type_params__]
        assert elsewhere.run(there, cls) == expected


# -- exceptions -----------------------------------------------------------------------------------


def exceptions():
    class Required(Exception):
        def __init__(self, code, *, reason):
            super().__init__(f"{code} {reason}")
            self.code, self.reason = code, reason

    class Slotted(Exception):
        __slots__ = ("code",)

        def __init__(self, code):
            self.code = code

    class Empty(LookupError):
        def __init__(self, where):
            self.where = where
            self.args = ()

    class Missing(ImportError):
        def __init__(self, name):
            super().__init__("not there", name=name, path="here")

    class Undecodable(UnicodeDecodeError):
        def __init__(self, data):
            super().__init__("ascii", data, 0, 1, "no")

    class Failed(OSError):
        def __init__(self, path):
            super().__init__(2, "gone", path)

    class Many(ExceptionGroup):
        def __new__(cls, errors, label):
            one = super().__new__(cls, label, errors)
            one.label = label
            return one

        def __init__(self, errors, label):
            pass

    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    return {
        "a keyword": (Required(4, reason="no"), ["code", "reason", "args"]),
        "slots": (Slotted(4), ["code", "args"]),
        "other args": (Empty("here"), ["where", "args"]),
        "ImportError": (Missing("name"), ["name", "path", "msg"]),
        "UnicodeError": (Undecodable(b"\xff"), ["object", "reason", "args"]),
        "OSError": (Failed("path"), ["errno", "strerror", "filename"]),
        "ExceptionGroup": (Many([Required(1, reason="x")], "all"), ["label", "message"]),
        "frozen": (Frozen(4), ["code"]),
    }


@pytest.mark.parametrize("kind", list(exceptions()))
def test_an_exception_is_rebuilt_without_its_init(elsewhere, kind):
    error, attributes = exceptions()[kind]
    expected = [getattr(error, name) for name in attributes]
    there = f"answer = [getattr(objects[0], name) for name in {attributes}]"
    assert elsewhere.run(there, error) == expected
    back = load_error(dump_error(error))
    assert type(back) is type(error)
    assert [getattr(back, name) for name in attributes] == expected
    assert str(back) == str(error)


def test_what_an_exception_says_of_its_own_pickling_counts(elsewhere):
    class Own(Exception):
        def __init__(self, first, second):
            self.both = first, second

        def __reduce__(self):
            return Own, self.both

    assert elsewhere.run("answer = objects[0].both", Own(1, 2)) == (1, 2)


# -- descriptors ----------------------------------------------------------------------------------


def test_descriptors_of_own_classes(elsewhere):
    class own_property(property):
        def __set_name__(self, owner, name):
            self.name = name

    class own_method(classmethod):
        label = "label"

    class own_cached(functools.cached_property):
        pass

    class Local:
        @own_property
        def x(self):
            """The x."""
            return self.cached + 1

        @own_cached
        def cached(self):
            return 3

        @own_method
        def make(cls):
            return cls()

    Local.alias = vars(Local)["x"]
    there = """
        cls = objects[0]
        answer = (cls.make().x, vars(cls)["x"].name, cls.x.__doc__, vars(cls)["make"].label,
                  cls.alias is cls.x, type(cls.x).__mro__[1], type(vars(cls)["cached"]).__name__)
    """
    expected = (4, "x", "The x.", "label", True, property, "own_cached")
    assert elsewhere.run(there, Local) == expected


# -- what must not go by value --------------------------------------------------------------------


def test_an_open_file_is_refused_not_copied(tmp_path):
    path = tmp_path / "file"
    path.write_text("text")
    with path.open() as file:
        with pytest.raises(qmill.SerializationError, match="an open file belongs to the process"):
            dumps(lambda: file.read())
        assert file.read() == "text"


def test_standard_output_is_that_of_the_reader(elsewhere, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    assert elsewhere.run("import sys; answer = objects[0] is sys.stdout", sys.stdout)


class OwnLocal(threading.local):
    pass


@pytest.mark.parametrize(
    "make",
    [threading.Lock, threading.RLock, threading.Event, threading.local, OwnLocal],
    ids=lambda make: make.__name__,
)
def test_a_lock_or_its_like_is_refused_and_named(make):
    held = make()

    class Holder:
        kept = held

    for obj in (Holder, lambda: Holder, lambda: held):
        with pytest.raises(qmill.SerializationError, match="kept|held"):
            dumps(obj, Exports())


# -- packages -------------------------------------------------------------------------------------


def test_structs_of_msgspec(elsewhere, monkeypatch):
    msgspec = pytest.importorskip("msgspec")
    names = script("""
        from __future__ import annotations
        import msgspec
        class Base(msgspec.Struct, kw_only=True, rename="camel", tag=True):
            some_name: int
            items: list = []
        class Child(Base, frozen=True, order=True, dict=True):
            own: int
            later: Child | None = None
            other: int = msgspec.field(default=7, name="o")
            def total(self):
                return self.own + self.other
        class Weak(msgspec.Struct, weakref=True, array_like=True):
            x: Child
    """)
    # msgspec looks names of types up in the module of the class.
    monkeypatch.setattr(sys.modules["__main__"], "Child", names["Child"], raising=False)
    child = names["Child"](1, some_name=2, items=[3])
    there = """
        import msgspec
        from msgspec.structs import fields
        child, weak = objects[0]
        cls = type(child)
        again = msgspec.json.decode(msgspec.json.encode(child), type=cls)
        answer = (again == child, child.total(), msgspec.json.encode(child), cls.__match_args__,
                  msgspec.to_builtins(weak(child)), [one.name for one in fields(cls)])
    """
    expected = (
        True,
        8,
        msgspec.json.encode(child),
        ("own", "later", "other"),
        msgspec.to_builtins(names["Weak"](child)),
        [one.name for one in msgspec.structs.fields(type(child))],
    )
    assert elsewhere.run(there, (child, names["Weak"])) == expected
    assert type(elsewhere.back(child)) is type(child)


def test_classes_of_attrs(elsewhere):
    attrs = pytest.importorskip("attrs")

    @attrs.define(slots=True, weakref_slot=False)
    class Base:
        x: int = attrs.field(default=1, on_setattr=attrs.setters.validate)

        @functools.cached_property
        def doubled(self):
            return 2 * self.x

        def plus(self, number):
            return self.x + number

    @attrs.define(eq=True, unsafe_hash=True)
    class Child(Base):
        y: int = attrs.field(factory=lambda: 4)

        def total(self):
            return self.doubled + super().plus(1) - self.x - 1 + self.y

    assert elsewhere.run("answer = objects[0].total(), objects[0].y", Child(3)) == (10, 4)
    assert elsewhere.back(Child(3)) == Child(3)
    there = "import attrs; answer = [one.name for one in attrs.fields(type(objects[0]))]"
    assert elsewhere.run(there, Child(3)) == ["x", "y"]


def test_models_of_pydantic(elsewhere):
    pytest.importorskip("pydantic")
    names = script("""
        import pydantic
        class Inner(pydantic.BaseModel):
            x: int
            other: "Inner | None" = None
            @pydantic.model_validator(mode="after")
            def check(self):
                if self.x < LIMIT:
                    raise ValueError("too small")
                return self
        LIMIT = 0
        class Outer(Inner, frozen=True):
            inner: list[Inner] = []
    """)
    outer = names["Outer"](x=1, inner=[{"x": 2, "other": {"x": 3}}])
    there = """
        outer = objects[0]
        try:
            type(outer)(x=1, inner=[{"x": -1}])
        except ValueError as error:
            answer = outer.model_dump(), "too small" in str(error), type(outer)
    """
    assert elsewhere.run(there, outer) == (outer.model_dump(), True, names["Outer"])
    assert elsewhere.back(outer) == outer
