# Enumerations, named tuples, protocols, generics: classes that a metaclass or `typing` makes.
import collections
import dataclasses
import enum
import types
import typing

from .declare import kind


class Color(enum.Enum):
    RED = 1
    GREEN = 2
    CRIMSON = 1

    def describe(self):
        return self.name.lower()


@kind("Enum: identity of members", Color.RED, lambda r: r[0] is Color.GREEN and r[1])
def job_enum(color):
    return Color.GREEN, color is Color.RED


@kind("Enum: aliases, methods, order", Color.RED, (True, "red", ["RED", "GREEN"], True, True))
def job_enum_alias(color):
    return (
        Color.CRIMSON is color,
        color.describe(),
        [one.name for one in Color],
        Color["CRIMSON"] is color,
        Color(1) is color,
    )


class Planet(enum.Enum):
    EARTH = (5.97, 6.37)
    MARS = (0.642, 3.39)

    def __init__(self, mass, radius):
        self.mass = mass
        self.radius = radius

    @property
    def density(self):
        return round(self.mass / self.radius, 2)


@kind("Enum with __init__", Planet.MARS, (0.642, 0.19, (0.642, 3.39)))
def job_enum_init(planet):
    return planet.mass, planet.density, planet.value


class Coded(bytes, enum.Enum):
    def __new__(cls, code, label):
        one = bytes.__new__(cls, [code])
        one._value_ = code
        one.label = label
        return one

    FIRST = (1, "first")
    SECOND = (2, "second")


@kind("Enum with __new__", Coded.SECOND, (b"\x02", 2, "second", True))
def job_enum_new(coded):
    return bytes(coded), coded.value, coded.label, Coded(2) is coded


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 5


@kind("IntEnum", Level.HIGH, lambda r: r[0] is Level.HIGH and r[1:] == (6, True))
def job_int_enum(level):
    return max(Level), level + 1, level > Level.LOW


class Mode(enum.StrEnum):
    READ = enum.auto()
    WRITE = enum.auto()


@kind("StrEnum with auto()", Mode.READ, lambda r: r[0] is Mode.WRITE and r[1] == "read mode")
def job_str_enum(mode):
    return Mode("write"), f"{mode} mode"


class Permission(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    ALL = READ | WRITE


@kind(
    "Flag: combinations",
    Permission.READ | Permission.WRITE,
    lambda r: r[0] is Permission.ALL and r[1] is ~Permission.READ and r[2] == 2,
)
def job_flag(permission):
    assert permission is Permission.ALL
    return permission, permission & ~Permission.READ, len(permission)


class Lock(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()

    def is_open(self):
        return self & BOTH_LOCKS is BOTH_LOCKS


BOTH_LOCKS = Lock.READ | Lock.WRITE


@kind("Flag: a combination that its own methods use", Lock.READ | Lock.WRITE, (True, True))
def job_flag_combination(lock):
    return lock.is_open(), lock is BOTH_LOCKS


class Bits(enum.IntFlag, boundary=enum.KEEP):
    ONE = 1
    FOUR = 4


@kind("IntFlag with a boundary", Bits.ONE, lambda r: r[0] is Bits.FOUR and r[1] == 9 and r[2])
def job_int_flag(bits):
    return Bits(4), bits | 8, isinstance(bits | 2, Bits)


@kind("enum members as keys", {Color.RED: 1, Level.LOW: 2}, {Color.RED: 2, Level.LOW: 3})
def job_enum_keys(table):
    return {Color.RED: table[Color.RED] + 1, Level.LOW: table[Level.LOW] + 1}


class Shouting(enum.Enum):
    def _generate_next_value_(name, start, count, last_values):  # noqa: N805
        return name + "!"

    @classmethod
    def _missing_(cls, value):
        return cls.DEFAULT

    HELLO = enum.auto()
    DEFAULT = enum.auto()


@kind("Enum with _generate_next_value_ and _missing_", None, lambda r: r is Shouting.DEFAULT)
def job_enum_missing(_):
    assert Shouting.HELLO.value == "HELLO!"
    return Shouting("anything")


class Documented(enum.Enum):
    _ignore_ = ["number"]
    for number in range(3):
        locals()[f"N{number}"] = number
    MEMBER_FUNCTION = enum.member(lambda x: x + 1)
    limit = enum.nonmember(7)
    table = enum.nonmember({})


@kind("Enum with nonmember, member, _ignore_", Documented.N2, (2, 7, 5, 4))
def job_enum_members(one):
    return one.value, Documented.limit, Documented.MEMBER_FUNCTION.value(4), len(Documented)


Animal = enum.Enum("Animal", ["CAT", "DOG"])


@kind("an Enum made by a call", Animal.DOG, lambda r: r is Animal.CAT)
def job_enum_call(animal):
    return Animal.CAT if animal is Animal.DOG else None


class Behaving(enum.Enum):
    def act(self):
        return self.value * 2


class Acting(Behaving):
    RUN = 3


@kind("an Enum with a base of the script", Acting.RUN, (6, True))
def job_enum_base(one):
    return one.act(), isinstance(one, Behaving)


@dataclasses.dataclass(frozen=True)
class Size:
    width: int
    height: int = 2


class Format(Size, enum.Enum):
    SMALL = 1
    WIDE = 5, 2


@kind("an Enum of a dataclass", Format.WIDE, lambda r: r[0] is Format.SMALL and r[1] == 10)
def job_enum_dataclass(one):
    return Format.SMALL, one.width * one.height


class Unhashable(enum.Enum):
    LIST = [1]
    DICT = {"a": 1}


@kind("an Enum with unhashable values", Unhashable.LIST, lambda r: r is Unhashable.DICT)
def job_enum_unhashable(one):
    assert one is Unhashable([1])
    return Unhashable.DICT


def with_enum_default(x, color=Color.GREEN, *, level=Level.LOW):
    return x, color is Color.GREEN, level is Level.LOW


@kind("enum members as defaults", 4, (4, True, True))
def job_enum_default(x):
    return with_enum_default(x)


class Self(enum.Enum):
    FIRST = 1
    SECOND = 2

    def opposite(self):
        return OPPOSITES[self]


OPPOSITES = {Self.FIRST: Self.SECOND, Self.SECOND: Self.FIRST}


@kind("an Enum whose methods use a table of its members", Self.FIRST, lambda r: r is Self.SECOND)
def job_enum_table(one):
    return one.opposite()


class Record(typing.TypedDict):
    x: int


class Extended(Record, total=False):
    y: typing.Required[int]
    z: str


@kind("TypedDict", Record(x=4), {"x": 5})
def job_typed_dict(record):
    return Record(x=record["x"] + 1)


@kind(
    "TypedDict that inherits, total=False",
    None,
    ({"x": 1, "z": "text"}, False, frozenset({"x", "y"}), frozenset({"z"}), ["x", "y", "z"]),
)
def job_typed_dict_inherits(_):
    return (
        Extended(x=1, z="text"),
        Extended.__total__,
        Extended.__required_keys__,
        Extended.__optional_keys__,
        sorted(Extended.__annotations__),
    )


Functional = typing.TypedDict("Functional", {"in": int})


@kind("a TypedDict made by a call", 4, {"in": 4})
def job_typed_dict_call(x):
    return Functional(**{"in": x})


class Pair(typing.NamedTuple):
    """Two."""

    left: int
    right: int = 2

    def total(self):
        return self.left + self.right


@kind("NamedTuple with a default and a method", Pair(4), Pair(6, 1))
def job_named_tuple(pair):
    assert Pair.__doc__ == "Two."
    return pair._replace(left=pair.total(), right=1)


class Triple(Pair):
    @property
    def third(self):
        return 3


@kind("a subclass of a NamedTuple", Triple(4), (4, 2, 3))
def job_named_tuple_subclass(triple):
    return *triple, triple.third


Spot = collections.namedtuple("Spot", "x y", defaults=[0])


@kind("namedtuple()", Spot(4), Spot(5, 4))
def job_namedtuple(spot):
    return Spot(spot.x + 1, spot.x)


Renamed = collections.namedtuple("OtherName", "x")


@kind("namedtuple() under another name", Renamed(4), Renamed(5))
def job_namedtuple_renamed(one):
    return one._replace(x=5)


@typing.runtime_checkable
class Closeable(typing.Protocol):
    limit: int

    def close(self): ...


class Door:
    limit = 1

    def close(self):
        return "closed"


class Gate(Closeable):
    limit = 2


@kind("a runtime_checkable Protocol", Door(), (True, False, True))
def job_protocol(door):
    return isinstance(door, Closeable), isinstance(4, Closeable), isinstance(Gate(), Closeable)


@kind("a Protocol cannot be instantiated", None, ("TypeError", 2))
def job_protocol_instance(_):
    try:
        Closeable()
    except TypeError as error:
        return type(error).__name__, Gate().limit


T = typing.TypeVar("T")
Number = typing.TypeVar("Number", bound="float")
Choice = typing.TypeVar("Choice", int, str)
Out = typing.TypeVar("Out", covariant=True)
P = typing.ParamSpec("P")
Ts = typing.TypeVarTuple("Ts")


class Box(typing.Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item

    def same(self, other: "Box[T]") -> "Box[T]":
        return self


class IntBox(Box[int]):
    pass


@kind("Generic", Box(4), lambda r: type(r[0]) is Box and r[1] == (T,) and r[2] == Box[int])
def job_generic(box):
    assert Box[str](1).item == 1
    return Box[int](box.item), Box.__parameters__, Box[int]


@kind("a subclass of Generic[...]", IntBox(4), lambda r: type(r[0]) is IntBox and r[1] == Box[int])
def job_generic_subclass(box):
    return box, IntBox.__orig_bases__[0]


@kind("TypeVar: identity, bound, constraints, variance", T, lambda r: r == (T, (int, str), True))
def job_typevar(variable):
    assert variable is T
    assert Number.__bound__ == typing.ForwardRef("float")
    return T, Choice.__constraints__, Out.__covariant__


class Task(typing.Generic[P, T]):
    pass


def typed_call(function: typing.Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return function(*args, **kwargs)


@kind("ParamSpec", 4, lambda r: r[0] == 5 and r[1] == Task[[int], str] and r[2] is P)
def job_paramspec(x):
    return typed_call(lambda x: x + 1, x), Task[[int], str], P


class Array(typing.Generic[typing.Unpack[Ts]]):
    pass


@kind("TypeVarTuple", 4, lambda r: r[0] == Array[int, str] and r[1] is Ts)
def job_typevartuple(_):
    return Array[int, str], Ts


class Node(typing.Generic[T]):
    children: "list[Node[T]]"
    leaf: typing.ClassVar[int] = 0


Leaves = dict[str, Node[int]]
Node.alias = Node[str]


@kind("generic aliases of classes of the script", None, lambda r: r == (Leaves, Node[str]))
def job_aliases(_):
    return Leaves, Node.alias


UserId = typing.NewType("UserId", int)


@kind("NewType", UserId(4), lambda r: r == (5, "UserId", int) and UserId.__module__ == "__main__")
def job_newtype(user):
    return UserId(user + 1), UserId.__name__, UserId.__supertype__


Maybe = typing.Optional[Door]
Either = int | Door
Exact = typing.Literal["a", Color.RED]
Noted = typing.Annotated[Door, "note", Color.RED]


@kind("Optional, unions, Literal, Annotated", None, lambda r: r == (Maybe, Either, Exact, Noted))
def job_unions(_):
    return Maybe, Either, Exact, Noted


class Hinted:
    door: Door
    others: list["Hinted"]


@kind("typing.get_type_hints", None, lambda r: r == {"door": Door, "others": list[Hinted]})
def job_type_hints(_):
    return typing.get_type_hints(Hinted, {"Hinted": Hinted, "Door": Door})


class Stack(list[int]):
    pass


@kind("a subclass of list[int]", Stack([4]), lambda r: type(r) is Stack and r == [4, 5])
def job_list_subclass(stack):
    assert Stack.__orig_bases__ == (list[int],)
    return Stack([*stack, 5])


class Final:
    @typing.final
    def method(self) -> typing.Self:
        return self


@kind("typing.final, Self", Final(), lambda r: type(r) is Final)
def job_final(one):
    return one.method()


Space = types.new_class("Space", (Box[int],), {}, lambda namespace: namespace.update(x=1))


@kind("types.new_class", Space(4), lambda r: type(r) is Space and r.x == 1)
def job_new_class(one):
    return one
