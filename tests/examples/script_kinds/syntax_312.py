# Type parameters and aliases in the syntax of Python 3.12.
import typing

from .declare import kind


class Cell[T]:
    def __init__(self, item: T) -> None:
        self.item = item

    def replaced[U](self, item: U) -> "Cell[U]":
        return Cell(item)


class NumberCell[N: (int, float)](Cell[N]):
    pass


@kind("class A[T]", Cell(4), lambda r: type(r[0]) is Cell and r[1] == Cell[int] and r[2] == "T")
def job_type_parameter(cell):
    assert Cell.__type_params__ == Cell.__parameters__
    return cell.replaced(5), Cell[int], Cell.__type_params__[0].__name__


@kind("class A[N: (int, float)](B[N])", NumberCell(4), lambda r: r == ((int, float), True))
def job_constrained(cell):
    (parameter,) = NumberCell.__type_params__
    return parameter.__constraints__, NumberCell.__orig_bases__[0] == Cell[parameter]


class Sorted[T: "Sorted"]:
    def smaller(self, other: T) -> T:
        return other


@kind("class A[T: A]", Sorted(), lambda r: r == "Sorted")
def job_self_bound(one):
    return type(one).__type_params__[0].__bound__


class Comparable[C: Comparable]:  # noqa: F821
    pass


@kind("class A[T: A], evaluated late", Comparable(), lambda r: r is Comparable)
def job_late_bound(one):
    return type(one).__type_params__[0].__bound__


def first[T](items: list[T], default: T | None = None) -> T:
    return items[0] if items else default


@kind("def f[T](x: T)", [4], (4, "T", True))
def job_generic_function(items):
    (parameter,) = first.__type_params__
    return first(items), parameter.__name__, first.__annotations__["items"] == list[parameter]


type Pairs = dict[str, Cell[int]]
type Nested = dict[str, Nested] | list[Nested] | str
type Tree[T] = T | list[Tree[T]]
type Bounded[T: int, *Ts, **P] = tuple[T, *Ts]


@kind("type X = ...", Pairs, lambda r: r == (Pairs, dict[str, Cell[int]]))
def job_alias(alias):
    assert alias is Pairs
    return Pairs, Pairs.__value__


@kind("type X = ..., recursive", None, lambda r: r[0] is Nested and r[1] == Nested.__value__)
def job_recursive_alias(_):
    return Nested, Nested.__value__


@kind("type X[T] = ..., recursive", None, lambda r: r[0] is Tree and r[1])
def job_generic_alias(_):
    (parameter,) = Tree.__type_params__
    return Tree, Tree.__value__ == parameter | list[Tree[parameter]]


@kind("type X[T: int, *Ts, **P] = ...", None, (int, "Ts", "P"))
def job_bounded_alias(_):
    bounded, several, rest = Bounded.__type_params__
    return bounded.__bound__, several.__name__, rest.__name__


class Marked(typing.NamedTuple):
    x: "Cell[int]"


class LinkedItem[T](typing.TypedDict):
    item: T


class Holder[T](typing.Protocol):
    item: T


@kind("generic TypedDict and Protocol", LinkedItem(item=4), ({"item": 5}, "T"))
def job_generic_protocol(linked):
    return LinkedItem(item=linked["item"] + 1), Holder.__type_params__[0].__name__


class Variadic[*Ts, **P]:
    pass


@kind("class A[*Ts, **P]", Variadic(), lambda r: r == ("Ts", "P"))
def job_variadic(one):
    return tuple(parameter.__name__ for parameter in type(one).__type_params__)
