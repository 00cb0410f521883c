"""`Generic` and type variables for such as `Queue[T]`, without `typing`, whose import is slow."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Generic, ParamSpec

    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
    P = ParamSpec("P")
    A = TypeVar("A")
    B = TypeVar("B")
    C = TypeVar("C")
    D = TypeVar("D")
    E = TypeVar("E")
else:
    from types import GenericAlias

    T = P = object

    class Generic:
        """The base of classes that take a type in brackets, as `queue.Queue[int]` does."""

        __slots__ = ()
        __class_getitem__ = classmethod(GenericAlias)


__all__ = ["Generic", "P", "T"]
