"""`multiprocessing.queues` on qmill: classes to make queues, and for `isinstance`."""

from __future__ import annotations

from multiprocessing import queues as _stdlib
from typing import Any

from ...queues.api import Queue as _Queue

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

SimpleQueue = _stdlib.SimpleQueue


class _Kind(type):
    def __instancecheck__(cls, obj: object) -> bool:
        return isinstance(obj, _Queue)

    def __call__(cls, maxsize: int = 0, *, ctx: object = None) -> _Queue:
        return _Queue(maxsize or 0)


class Queue(metaclass=_Kind):
    """A `qmill.Queue`. Its context is ignored, since it can be sent with every start method."""

    def __init_subclass__(cls, **_: object) -> None:
        raise TypeError(
            "a queue of qmill has no class to derive from: give your class an attribute that is a "
            "queue, or derive from multiprocessing.queues.Queue of the standard library"
        )


JoinableQueue = Queue


def __getattr__(name: str) -> Any:
    return getattr(_stdlib, name)
