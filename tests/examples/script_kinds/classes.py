# Classes, and their instances on the way there and back.
import abc
import collections
import copyreg
import ctypes
import dataclasses
import numbers
import types
import weakref

from .declare import kind


def is_exactly(cls, **attributes):
    """Whether a result is of this very class and has these attributes."""

    def check(result):
        assert type(result) is cls, type(result)
        found = {name: getattr(result, name) for name in attributes}
        assert found == attributes, found
        return True

    return check


class Plain:
    def __init__(self, x):
        self.x = x


@kind("an instance of a plain class", Plain(4), is_exactly(Plain, x=5))
def job_plain(plain):
    return Plain(plain.x + 1)


@kind("a class as the argument and the result", Plain, lambda r: r is Plain)
def job_class_itself(cls):
    return cls if cls is Plain else None


class OneSlot:
    __slots__ = "x"

    def __init__(self, x):
        self.x = x


@kind("__slots__: a string", OneSlot(4), is_exactly(OneSlot, x=5))
def job_one_slot(one):
    assert not hasattr(one, "__dict__")
    return OneSlot(one.x + 1)


class PrivateSlots:
    __slots__ = ("__x", "_y")

    def __init__(self, x):
        self.__x = x

    def get(self):
        return self.__x


@kind("__slots__: private names", PrivateSlots(4), lambda r: r.get() == 5)
def job_private_slots(one):
    assert not hasattr(one, "_y")
    return PrivateSlots(one.get() + 1)


class _Hidden:
    __slots__ = ["__x"]

    def __init__(self, x):
        self.__x = x

    def get(self):
        return self.__x


@kind("__slots__: private names in a private class", _Hidden(4), lambda r: r.get() == 5)
def job_hidden_slots(one):
    return _Hidden(one.get() + 1)


class SlotsWithDict:
    __slots__ = ("x", "__dict__")


@kind("__slots__ with __dict__", None, is_exactly(SlotsWithDict, x=1, y=2))
def job_slots_with_dict(_):
    one = SlotsWithDict()
    one.x, one.y = 1, 2
    return one


class SlotsWithWeakref:
    __slots__ = ("x", "__weakref__")


@kind("__slots__ with __weakref__", 4, 4)
def job_slots_with_weakref(x):
    one = SlotsWithWeakref()
    one.x = x
    return weakref.ref(one)().x


class DocumentedSlots:
    __slots__ = {"x": "The x.", "y": "The y."}


@kind("__slots__: a dict of docstrings", None, is_exactly(DocumentedSlots, x=1))
def job_documented_slots(_):
    assert DocumentedSlots.__slots__["x"] == "The x."
    one = DocumentedSlots()
    one.x = 1
    return one


class IteratedSlots:
    __slots__ = (name for name in ("x", "y"))


@kind("__slots__: a used-up iterator", 4, 4)
def job_iterated_slots(x):
    one = IteratedSlots()
    one.x = x
    return one.x


class BaseSlots:
    __slots__ = ("x",)


class DerivedSlots(BaseSlots):
    __slots__ = ("y",)


class EmptySlots(DerivedSlots):
    __slots__ = ()


class DerivedWithDict(DerivedSlots):
    pass


@kind("__slots__ inherited", 4, lambda r: type(r[0]) is EmptySlots and r[1].z == 3)
def job_inherited_slots(x):
    one, other = EmptySlots(), DerivedWithDict()
    one.x = one.y = other.x = other.y = x
    other.z = 3
    assert not hasattr(one, "__dict__")
    return one, other


class DictWithSlots(dict):
    __slots__ = ("tag",)


class ListWithSlots(list):
    __slots__ = ("tag",)


class SetWithSlots(set):
    __slots__ = ("tag",)


def tagged(one, tag):
    one.tag = tag
    return one


@kind(
    "a dict, a list, a set with slots",
    tagged(DictWithSlots(a=1), "first"),
    lambda r: (
        [*map(type, r)] == [DictWithSlots, ListWithSlots, SetWithSlots]
        and [one.tag for one in r] == ["first", 2, 3]
        and r[0] == {"a": 1}
        and r[1] == [4]
        and r[2] == {5}
    ),
)
def job_containers_with_slots(one):
    return one, tagged(ListWithSlots([4]), 2), tagged(SetWithSlots([5]), 3)


class IntWithSlots(int):
    __slots__ = ()


class StrWithSlots(str):
    __slots__ = ("tag",)


class TupleWithSlots(tuple):
    __slots__ = ()


class FloatWithDict(float):
    pass


@kind(
    "an int, a str, a tuple with slots",
    IntWithSlots(4),
    lambda r: (
        [*map(type, r)] == [IntWithSlots, StrWithSlots, TupleWithSlots, FloatWithDict]
        and r == (4, "text", (1, 2), 0.5)
        and r[1].tag == "tag"
    ),
)
def job_immutables_with_slots(one):
    return one, tagged(StrWithSlots("text"), "tag"), TupleWithSlots((1, 2)), FloatWithDict(0.5)


class ErrorWithSlots(Exception):
    __slots__ = ("code",)


@kind("an exception with slots", None, is_exactly(ErrorWithSlots, args=("text",)))
def job_error_with_slots(_):
    return ErrorWithSlots("text")


class Ambiguous:
    __slots__ = ("x",)
    __hash__ = None

    def __eq__(self, other):
        return self.x == other.x

    def __getstate__(self):
        return self.x

    def __setstate__(self, state):
        self.x = state


@kind(
    "__slots__ with __getstate__ and __setstate__", 4, lambda r: type(r) is Ambiguous and r.x == 4
)
def job_slots_with_state(x):
    one = Ambiguous()
    one.x = x
    return one


@dataclasses.dataclass
class Data:
    x: int
    y: "list[int]" = dataclasses.field(default_factory=list)


@kind("dataclass", Data(4), Data(5, [4]))
def job_dataclass(data):
    return dataclasses.replace(data, x=data.x + 1, y=[data.x])


@dataclasses.dataclass(slots=True)
class SlottedData:
    x: int
    __private: int = 0

    def plus(self, x):
        return SlottedData(self.x + x)


@kind("dataclass(slots=True)", SlottedData(4), SlottedData(5))
def job_slotted_dataclass(data):
    assert not hasattr(data, "__dict__")
    return data.plus(1)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenData:
    x: int
    y: int = 0


@kind("dataclass(frozen=True, slots=True)", FrozenData(4), FrozenData(4, 5))
def job_frozen_dataclass(data):
    try:
        data.x = 0
    except dataclasses.FrozenInstanceError:
        return FrozenData(data.x, hash(data) and 5)


@dataclasses.dataclass(slots=True, weakref_slot=True)
class WeakData:
    x: int


@kind("dataclass(slots=True, weakref_slot=True)", WeakData(4), WeakData(4))
def job_weakref_dataclass(data):
    return weakref.ref(data)()


@dataclasses.dataclass(slots=True)
class SlottedChild(SlottedData):
    z: int = 3

    def plus(self, x):
        return super(SlottedChild, self).plus(x).x + self.z


@kind("dataclass(slots=True) that inherits", SlottedChild(4), 8)
def job_slotted_child(data):
    return data.plus(1)


def start_value():
    return [0]


@dataclasses.dataclass(order=True)
class FullData:
    kind: dataclasses.InitVar[str]
    shared: "dataclasses.KW_ONLY" = None
    items: list = dataclasses.field(default_factory=start_value, compare=False)
    x: int = dataclasses.field(default=1, repr=False, metadata={"unit": "m"})

    def __post_init__(self, kind):
        self.label = kind.upper()


@kind("dataclass: a default_factory of the script, InitVar, metadata", None, ([0], "A", "m"))
def job_full_dataclass(_):
    data = FullData("a")
    return data.items, data.label, dataclasses.fields(data)[-1].metadata["unit"]


@dataclasses.dataclass
class KeywordData:
    x: int
    _: dataclasses.KW_ONLY
    y: int = 2


@kind("dataclass with KW_ONLY", KeywordData(1, y=3), KeywordData(3, y=1))
def job_keyword_dataclass(data):
    return KeywordData(data.y, y=data.x)


Made = dataclasses.make_dataclass(
    "Made", ["x", ("y", int, 2)], namespace={"sum": lambda self: self.x + self.y}
)


@kind("make_dataclass", Made(4), Made(6))
def job_made_dataclass(data):
    return Made(data.sum())


class Meta(type):
    created = []

    def __new__(mcs, name, bases, namespace, *, prefix):
        namespace["label"] = prefix + name
        return super().__new__(mcs, name, bases, namespace)

    def __init__(cls, name, bases, namespace, *, prefix):
        super().__init__(name, bases, namespace)
        cls.created.append(name)

    @classmethod
    def __prepare__(mcs, name, bases, *, prefix):
        return {"prepared": prefix}

    def __len__(cls):
        return len(cls.label)

    def __call__(cls, *args):
        one = super().__call__(*args)
        one.by_meta = True
        return one


class WithMeta(metaclass=Meta, prefix="my"):
    pass


@kind(
    "a metaclass with keywords, __prepare__, __call__",
    WithMeta(),
    lambda r: r[1:] == ("myWithMeta", "my", 10, True, ["WithMeta"]) and type(r[0]) is WithMeta,
)
def job_metaclass(one):
    cls = type(one)
    return one, cls.label, cls.prepared, len(cls), WithMeta().by_meta, cls.created


class Plugin:
    plugins = {}

    def __init_subclass__(cls, *, key, **rest):
        super().__init_subclass__(**rest)
        cls.key = key
        cls.plugins[key] = cls


class Csv(Plugin, key="csv"):
    pass


class Json(Plugin, key="json"):
    pass


@kind(
    "__init_subclass__ with a keyword, a registry", "csv", lambda r: type(r[0]) is Csv and r[1] == 2
)
def job_init_subclass(key):
    return Plugin.plugins[key](), len(Plugin.plugins)


class Counted:
    names = []

    def __init_subclass__(cls):
        Counted.names.append(cls.__name__)


class CountedChild(Counted):
    pass


@kind("__init_subclass__ runs once", None, ["CountedChild"])
def job_init_subclass_once(_):
    return CountedChild.names


class Field:
    def __set_name__(self, owner, name):
        self.name = name
        self.owner = owner

    def __get__(self, one, owner=None):
        return self if one is None else one.__dict__.get(self.name, "unset")

    def __set__(self, one, value):
        one.__dict__[self.name] = value


class Form:
    title = Field()


@kind("a descriptor with __set_name__", 4, ("unset", 4, "title", True))
def job_descriptor(x):
    form = Form()
    before = form.title
    form.title = x
    return before, form.title, Form.title.name, Form.title.owner is Form


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

    @property
    @abc.abstractmethod
    def name(self): ...


class Square(Shape):
    name = "square"

    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2


@Shape.register
class Blob:
    pass


@kind("an ABC with abstract methods", Square(4), (16, True, "TypeError"))
def job_abc(square):
    try:
        Shape()
    except TypeError as error:
        return square.area(), isinstance(square, Shape), type(error).__name__


@kind("a class registered with an ABC of the script", Blob(), True)
def job_abc_registered(blob):
    return isinstance(blob, Shape)


@numbers.Number.register
class Money:
    pass


@collections.abc.Sequence.register
class Row:
    pass


@kind("a class registered with an ABC of the standard library", Money(), (True, True))
def job_abc_of_stdlib(money):
    return isinstance(money, numbers.Number), issubclass(Row, collections.abc.Sequence)


class Duck(abc.ABC):
    @classmethod
    def __subclasshook__(cls, other):
        return hasattr(other, "quack")


class Mallard:
    quack = "quack"


@kind("an ABC with __subclasshook__", Mallard(), True)
def job_subclasshook(one):
    return isinstance(one, Duck)


class Greeter:
    def greet(self):
        return "hello"


class Loud(Greeter):
    def greet(self):
        return super().greet().upper()

    def cls(self):
        return __class__


class Louder(Loud):
    def greet(self):
        return super().greet() + "!"


@kind("super() and __class__", Louder(), lambda r: r == ("HELLO!", Loud))
def job_super(one):
    return one.greet(), one.cls()


@dataclasses.dataclass(slots=True)
class SlottedGreeter(Greeter):
    name: str = "me"


@kind("a slotted dataclass with a base that has none", SlottedGreeter(), "hello me")
def job_slotted_greeter(one):
    return f"{one.greet()} {one.name}"


class Outer:
    class Inner:
        def __init__(self, x):
            self.x = x

        class Innermost:
            pass


@kind("nested classes", Outer.Inner(4), lambda r: type(r) is Outer.Inner.Innermost)
def job_nested(inner):
    assert type(inner) is Outer.Inner
    return Outer.Inner.Innermost()


def make_class(base):
    class Inside(base):
        def get(self):
            return super().get() + 1

    return Inside


class Getter:
    def get(self):
        return 1


Inside = make_class(Getter)


@kind("a class made in a function", Inside(), lambda r: type(r[0]) is Inside and r[1] == 2)
def job_local_class(one):
    return Inside(), one.get()


Typed = type("Typed", (Getter,), {"get": lambda self: 5, "limit": 3})
Hidden = type("SomeName", (), {"x": 1})


@kind("a class made by type()", Typed(), lambda r: type(r[0]) is Typed and r[1:] == (5, 3))
def job_type_made(one):
    return one, one.get(), Typed.limit


@kind("a class under another name", Hidden(), lambda r: type(r) is Hidden)
def job_other_name(one):
    return one if type(one) is Hidden else None


def add_repr(cls):
    class Wrapped(cls):
        def __repr__(self):
            return f"<{cls.__name__}>"

    return Wrapped


@add_repr
class Decorated:
    pass


@kind("a class decorator that gives a subclass", Decorated(), lambda r: r[1] == "<Decorated>")
def job_class_decorator(one):
    return one, repr(one)


class Indexed:
    def __class_getitem__(cls, item):
        return f"{cls.__name__}[{item.__name__}]"


@kind("__class_getitem__", None, "Indexed[int]")
def job_class_getitem(_):
    return Indexed[int]


class Singleton:
    _instance = None

    def __new__(cls):
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance


singleton = Singleton()


@kind("a singleton by __new__", singleton, lambda r: r is singleton)
def job_singleton(one):
    assert Singleton() is one
    return one


class WithNewArguments:
    def __new__(cls, x):
        one = super().__new__(cls)
        one.x = x
        return one

    def __getnewargs__(self):
        return (self.x,)


@kind("__getnewargs__", WithNewArguments(4), is_exactly(WithNewArguments, x=4))
def job_getnewargs(one):
    return one


def rebuild_reduced(x):
    return Reduced(x)


class Reduced:
    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        return rebuild_reduced, (self.x,)


@kind("__reduce__ with a function of the script", Reduced(4), is_exactly(Reduced, x=4))
def job_reduce(one):
    return one


class Registered:
    def __init__(self, x, *, secret):
        self.x = x
        self.secret = secret


def reduce_registered(one):
    return restore_registered, (one.x,)


def restore_registered(x):
    return Registered(x, secret="restored")


copyreg.pickle(Registered, reduce_registered)


@kind("copyreg.pickle", Registered(4, secret=1), is_exactly(Registered, x=5, secret="restored"))
def job_copyreg(one):
    return Registered(one.x + 1, secret=one.secret)


class Proxy:
    def __init__(self, target):
        self.target = target

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.target, name)


@kind("__getattr__", Proxy([3, 1]), 2)
def job_getattr(proxy):
    return len([proxy.count(1), proxy.index(1)])


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]

    def total(self):
        return self.x + self.y


@kind("ctypes.Structure", Point(1, 2.5), lambda r: type(r) is Point and (r.x, r.y) == (3, 0.5))
def job_ctypes(point):
    return Point(int(point.total()), 0.5)


class Callable:
    __call__ = lambda self, x: x + 1  # noqa: E731


@kind("an instance with __call__", Callable(), 5)
def job_callable(function):
    return function(4)


class Branch:
    def __init__(self, *children):
        self.children = children
        for child in children:
            child.parent = self


@kind("objects that refer to each other", Branch(Branch(), Branch()), True)
def job_cycle(tree):
    return all(child.parent is tree for child in tree.children)


class Operators:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return isinstance(other, Operators) and self.x == other.x

    def __hash__(self):
        return hash(self.x)

    def __bool__(self):
        raise RuntimeError("has no truth value")

    def __len__(self):
        raise RuntimeError("has no length")


@kind("instances as keys, without a truth value", {Operators(1): 2}, {Operators(1): 3})
def job_keys(table):
    return {key: table[Operators(1)] + 1 for key in table}


class Mixin:
    def describe(self):
        return f"{type(self).__name__}({self.data})"


class MixedDict(Mixin, collections.UserDict):
    pass


@kind("multiple inheritance", MixedDict(a=1), "MixedDict({'a': 1})")
def job_mixin(one):
    return one.describe()


class WithDictProperty:
    @property
    def __dict__(self):
        return {"x": 1}


@kind("a property called __dict__", None, {"x": 1})
def job_dict_property(_):
    return WithDictProperty().__dict__


class Constants:
    names: "tuple" = ("a", "b")
    table = types.MappingProxyType({"a": 1})

    def __init__(self):
        raise TypeError("a namespace only")


@kind("a class used as a namespace", "a", (1, {"names": "tuple"}))
def job_namespace(key):
    return Constants.table[key], Constants.__annotations__


class Growing:
    total = 0
    seen = []


def add_to_class(x):
    Growing.total += x
    Growing.seen.append(x)


@kind("class attributes that a function changes", 4, (8, [4, 4]))
def job_class_attributes(x):
    Growing.total, Growing.seen = 0, []
    add_to_class(x)
    add_to_class(x)
    return Growing.total, Growing.seen


class Monkey:
    pass


Monkey.patched = lambda self, x: x + 1
Monkey.__qualname__ = "Renamed"


@kind("methods added later, a changed __qualname__", Monkey(), lambda r: type(r[0]) is Monkey)
def job_patched(one):
    return one, one.patched(4)
