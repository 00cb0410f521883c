"""The functions that a pool's jobs call: their numbers, their packed form, how long calls take."""

from __future__ import annotations

import itertools
import threading
import weakref
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

from .. import serialize
from ..errors import SerializationError
from . import _packets as packets

UNKNOWN_S = 1.0
"""What a call of an unknown function is taken to cost: nothing waits behind it."""

_SENT_ONCE = (FunctionType, BuiltinFunctionType, partial, type)
_SMOOTHING = 0.2  # how much the last measurement counts in the mean
_DOUBT = 1 - _SMOOTHING  # what each call leaves of the time that an unknown one is taken to cost


class Subject:
    """A function that jobs call: how workers know it, and how long a call takes.

    Attributes:
        number: What packets call it.
        packed: The function itself; None if only a fork can hand it on.
        mean_s: A moving average of the time of one call; None before the first.
        cost_s: What to reckon with in the sum of what a worker has to do: `UNKNOWN_S` at first,
            and with each call nearer to the mean. So the first jobs begin strictly in their order,
            and may wait for one another; some 20 quick ones show that others may wait behind them.
    """

    __slots__ = ("__weakref__", "_doubt_s", "cost_s", "mean_s", "number", "packed")

    def __init__(self, number: int, packed: bytes | bytearray | None) -> None:
        self.number = number
        self.packed = packed
        self.mean_s: float | None = None
        self._doubt_s = self.cost_s = UNKNOWN_S

    def measure(self, taken_s: float, num_calls: int) -> None:
        """Take another measurement into the mean: how long so many calls took."""
        mean, last = self.mean_s, taken_s / num_calls
        self.mean_s = mean = last if mean is None else mean + _SMOOTHING * (last - mean)
        self._doubt_s *= _DOUBT**num_calls
        self.cost_s = mean + self._doubt_s


class Functions:
    """The functions of one pool; each has a number as long as it lives.

    A function is packed once, with its globals of that moment. Bound methods and instances with
    `__call__` may change from job to job, so they travel with its arguments.

    Args:
        inherit: Whether a fork can hand on a function that cannot be packed.
        always: Whether it hands on all functions, and calls that cannot be packed, since each job
            has a worker that is forked for it.
    """

    def __init__(self, *, inherit: bool, always: bool = False) -> None:
        self._inherit = inherit
        self._always = inherit and always
        self._lock = threading.RLock()
        self._subjects: weakref.WeakKeyDictionary[Any, Subject] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count(1)
        self._alive: weakref.WeakValueDictionary[int, Subject] = weakref.WeakValueDictionary()
        self._last: tuple[Any, Subject | None] = None, None
        self._num_gone = 0

    def of(self, function: Any, exports: serialize.Exports) -> Subject | None:
        """Return what is known of a function, or None if it is to travel with its arguments.

        Raises:
            SerializationError: It cannot be packed.
        """
        last, subject = self._last
        if last is function:
            return subject
        if not isinstance(function, _SENT_ONCE):
            return None
        with self._lock:
            subject = self._subjects.get(function)
            if subject is None:
                packed = self._pack(function, exports)
                subject = Subject(next(self._numbers), packed)
                self._subjects[function] = subject
                self._alive[subject.number] = subject
            self._last = function, subject
        return subject

    def inherited(self, call: partial[Any]) -> Subject | None:
        """Return a number for a whole call that cannot be packed; None if no fork hands it on."""
        if not self._always:
            return None
        with self._lock:
            subject = self._subjects[call] = Subject(next(self._numbers), None)
            self._alive[subject.number] = subject
        return subject

    def known(self, function: Any) -> Subject | None:
        """Return what is known of a function."""
        if not isinstance(function, _SENT_ONCE):
            return None
        with self._lock:
            return self._subjects.get(function)

    def _pack(self, function: Any, exports: serialize.Exports) -> bytes | bytearray | None:
        if self._always:
            return None
        try:
            return serialize.dumps(function, exports)
        except SerializationError:
            if self._inherit:
                return None
            raise

    def gone_of(self, numbers: set[int]) -> list[int]:
        """Return those numbers whose functions do not live any more."""
        alive = self._alive
        if len(numbers) <= len(alive):
            return []
        return [number for number in numbers if number not in alive]

    def adopt(self, subjects: dict[int, Subject], gone: list[int]) -> None:
        """Know functions, and know some no more, that were numbered and packed elsewhere."""
        self._alive.update(subjects)
        for number in gone:
            self._alive.pop(number, None)

    def all(self) -> dict[int, Any]:
        """Return the functions that live, by number."""
        return {subject.number: function for function, subject in list(self._subjects.items())}


class Definitions:
    """What workers have defined: where `serialize` finds the classes that results refer to."""

    def __init__(self) -> None:
        self.packed: dict[bytes, bytes] = {}
        self._built: dict[bytes, Any] = {}

    def fetch(self, key: bytes) -> bytes:
        """Return a packed definition, or raise KeyError."""
        return self.packed[key]

    def add(self, data: bytes | memoryview) -> None:
        """Take in a definition: its key, and the packed object."""
        self.packed[bytes(data[: packets.KEY_BYTES])] = bytes(data[packets.KEY_BYTES :])

    def keep(self, key: bytes, built: Any) -> None:
        """Keep a definition alive that has been built."""
        self._built[key] = built
        self.packed.pop(key, None)
