"""The functions that a pool's jobs call: their numbers, their packed form, how long calls take."""

from __future__ import annotations

import itertools
import weakref
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

from .. import _native, serialize
from .._environment import Environment, Globals, Numbered, Values
from .._watch import Watch
from ..errors import SerializationError
from . import _packets as packets

UNKNOWN_S = 1.0
"""The assumed cost of a call of an unknown function: nothing waits behind it."""

_SENT_ONCE = (FunctionType, BuiltinFunctionType, partial, type)
_SMOOTHING = 0.2  # how much the last measurement counts in the mean
_DOUBT = 1 - _SMOOTHING  # what each call leaves of the time that an unknown one is taken to cost


class Pace:
    """The measured duration of a function's calls.

    Attributes:
        mean_s: A moving average of the time of one call; None before the first.
        cost_s: What to reckon with in the sum of what a worker has to do: `UNKNOWN_S` at first,
            and with each call nearer to the mean. So the first jobs begin strictly in their order,
            and may wait for one another; some 20 quick ones show that others may wait behind them.
    """

    __slots__ = ("_doubt_s", "cost_s", "mean_s")

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self._doubt_s = self.cost_s = UNKNOWN_S

    def measure(self, taken_s: float, num_calls: int) -> None:
        """Take another measurement into the mean: how long so many calls took."""
        mean, last = self.mean_s, taken_s / num_calls
        self.mean_s = mean = last if mean is None else mean + _SMOOTHING * (last - mean)
        self._doubt_s *= _DOUBT**num_calls
        self.cost_s = mean + self._doubt_s


class Subject(Numbered):
    """A function that jobs call, as it was when it was packed.

    Attributes:
        pace: How long a call takes, the same for all versions of a function.
    """

    __slots__ = ("pace",)

    def __init__(
        self, number: int, packed: bytes | bytearray | None, pace: Pace | None = None
    ) -> None:
        super().__init__(number, packed)
        self.pace = Pace() if pace is None else pace


class Moment(NamedTuple):
    """A function as it is at one moment: what a job of it needs.

    Attributes:
        subject: The function; None if it travels with its arguments.
        environment: What its global names are bound to; None if it uses none.
    """

    subject: Subject | None
    environment: Environment | None


_UNSENT = Moment(None, None)


class _Version(NamedTuple):
    """The last moment of a function, and what must not have changed for it to hold."""

    moment: Moment
    state: Any
    watch: Watch


class Functions:
    """The functions of one pool; each version of one has a number as long as it lives.

    A function is packed when a job is put, or when it or its globals have changed since the last
    one. Bound methods and instances with `__call__` travel with their arguments each time.

    Args:
        exports: Where definitions go.
        by_name: Whether workers import the program's script.
        inherit: Whether a fork can hand on a function that cannot be packed.
        always: Whether it hands on all functions, and calls that cannot be packed, since each job
            has a worker that is forked for it.
    """

    def __init__(
        self,
        exports: serialize.Exports,
        *,
        by_name: bool,
        inherit: bool = False,
        always: bool = False,
    ) -> None:
        self._exports = exports
        self._inherit = inherit
        self._always = inherit and always
        self._lock = _native.RLock()
        self._versions: weakref.WeakKeyDictionary[Any, _Version] = weakref.WeakKeyDictionary()
        self._calls: weakref.WeakKeyDictionary[Any, Subject] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count(1)
        self._alive: weakref.WeakValueDictionary[int, Numbered] = weakref.WeakValueDictionary()
        self._last: tuple[Any, Moment] = None, _UNSENT  # one that cannot change
        self._globals = Globals(self._know, exports, by_name=by_name, inherit=inherit)
        self._touched: dict[tuple[int, ...], _Touched] = {}

    def _know(self, thing: Numbered) -> None:
        thing.number = next(self._numbers)
        self._alive[thing.number] = thing

    def of(self, function: Any) -> Moment:
        """Return what a job of a function needs now.

        Raises:
            SerializationError: The function, or a global that it uses, cannot be packed.
        """
        last, moment = self._last
        if last is function:
            return moment
        if not isinstance(function, _SENT_ONCE):
            return _UNSENT
        with self._lock:
            version = self._versions.get(function)
            if version is None or not version.watch.is_unchanged(self._globals.pack):
                version = self._versions[function] = self._look_at(function, version)
            if not version.watch:
                self._last = function, version.moment
        return version.moment

    def _look_at(self, function: Any, before: _Version | None) -> _Version:
        """Find out what has changed of a function, and pack that."""
        state = self._globals.state_of(function)
        subject = None if before is None or before.state is not state else before.moment.subject
        touched: list[Any] = [function]
        if subject is None:
            pace = before.moment.subject.pace if before and before.moment.subject else None
            subject = Subject(0, self._pack(function, touched), pace)
            self._know(subject)
        environment, watch = self._globals.of(touched)
        if state is not None:
            watch.include(state.watch)
        return _Version(Moment(subject, environment), state, watch)

    def with_objects(
        self, environment: Environment | None, touched: list[Any]
    ) -> Environment | None:
        """Add to an environment what functions and classes use that are among a job's arguments.

        Raises:
            SerializationError: A global that they use cannot be packed.
        """
        if not touched:
            return environment
        with self._lock:
            key = tuple(dict.fromkeys(map(id, touched)))
            found = self._touched.get(key)
            if found is None or not found.watch.is_unchanged(self._globals.pack):
                if len(self._touched) >= _MAX_TOUCHED:
                    self._touched.clear()
                found = _Touched(touched, *self._globals.of(touched))
                self._touched[key] = found
            return self._globals.merged(found.environment, environment)

    def inherited(self, call: partial[Any]) -> Subject | None:
        """Return a number for a whole call that cannot be packed; None if no fork hands it on."""
        if not self._always:
            return None
        with self._lock:
            subject = self._calls[call] = Subject(0, None)
            self._know(subject)
        return subject

    def pace_of(self, function: Any) -> Pace | None:
        """Return how long calls of a function take, if any have been made."""
        if not isinstance(function, _SENT_ONCE):
            return None
        with self._lock:
            version = self._versions.get(function)
        subject = None if version is None else version.moment.subject
        return None if subject is None else subject.pace

    def _pack(self, function: Any, touched: list[Any]) -> bytes | bytearray | None:
        if self._always:
            return None
        try:
            packed = serialize.dumps(function, self._exports, touched)
        except SerializationError:
            if self._inherit:
                return None
            raise
        nameless = self._exports.nameless
        if nameless and any(serialize.key_of(obj) in nameless for obj in touched):
            return None
        return packed

    def gone_of(self, numbers: set[int]) -> list[int]:
        """Return those numbers whose functions do not live any more."""
        alive = self._alive
        if len(numbers) <= len(alive):
            return []
        return [number for number in numbers if number not in alive]

    def adopt(self, things: dict[int, Any], gone: list[int]) -> None:
        """Know functions and environments, and know some no more, that were numbered elsewhere."""
        self._alive.update(things)
        for number in gone:
            self._alive.pop(number, None)

    def inheritance(self) -> dict[int, Any]:
        """Return what a worker has from a fork: functions, and values that cannot be packed."""
        with self._lock:
            versions, calls = list(self._versions.items()), list(self._calls.items())
        found = {
            version.moment.subject.number: function
            for function, version in versions
            if version.moment.subject is not None
        }
        found.update((subject.number, call) for call, subject in calls)
        found.update(
            (thing.number, thing.values)
            for thing in list(self._alive.values())
            if isinstance(thing, Values) and thing.values is not None
        )
        return found


_MAX_TOUCHED = 64  # sets of functions and classes in arguments whose globals are remembered


class _Touched(NamedTuple):
    """Functions and classes that were in a job's arguments, and what they used."""

    objects: list[Any]  # so that their ids stay theirs
    environment: Environment | None
    watch: Watch


class Definitions:
    """Definitions of workers: where `serialize` finds the classes to which results refer."""

    by_value_first = True

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
