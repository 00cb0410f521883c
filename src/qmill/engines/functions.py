"""The functions that a pool's jobs call: their numbers, pickled forms and measured durations."""

from __future__ import annotations

import itertools
import weakref
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any, NamedTuple

from ..errors import SerializationError
from ..packing import definitions, serialize
from ..packing.environment import Environment, Globals, Numbered, Values
from ..packing.watch import Watch
from ..system import native

UNKNOWN_S = 1.0
"""The assumed duration of a call of an unknown function, so long that no job waits behind it."""

_SENT_ONCE = (FunctionType, BuiltinFunctionType, partial, type)
_SMOOTHING = 0.2  # the weight of the last measurement in the mean
_DOUBT = 1 - _SMOOTHING  # each call multiplies the assumed extra cost of an unknown function by it


class Pace:
    """The measured duration of a function's calls.

    Attributes:
        mean_s: A moving average of the duration of one call; None before the first.
        cost_s: The expected duration of a call: `UNKNOWN_S` at first, and nearer to the mean with
            each call. So the first jobs begin strictly in order and are not sent ahead; after some
            20 quick calls, others are.
    """

    __slots__ = ("_doubt_s", "cost_s", "mean_s")

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self._doubt_s = self.cost_s = UNKNOWN_S

    def measure(self, taken_s: float, num_calls: int) -> None:
        """Add a measurement to the mean: `num_calls` calls took `taken_s` seconds together."""
        mean, last = self.mean_s, taken_s / num_calls
        self.mean_s = mean = last if mean is None else mean + _SMOOTHING * (last - mean)
        self._doubt_s *= _DOUBT**num_calls
        self.cost_s = mean + self._doubt_s


class Subject(Numbered):
    """A function that jobs call, as it was when it was pickled.

    Attributes:
        pace: The duration of its calls, the same for all versions of a function.
    """

    __slots__ = ("pace",)

    def __init__(
        self, number: int, packed: bytes | bytearray | None, pace: Pace | None = None
    ) -> None:
        super().__init__(number, packed)
        self.pace = Pace() if pace is None else pace


class Moment(NamedTuple):
    """The state of a function at one moment, which its jobs need.

    Attributes:
        subject: The function; None if it is sent with the arguments.
        environment: The values of its globals; None if it uses none.
    """

    subject: Subject | None
    environment: Environment | None


_UNSENT = Moment(None, None)


class _Version(NamedTuple):
    """The last `Moment` of a function, and a watch on the objects that it depends on."""

    moment: Moment
    state: Any
    watch: Watch


class Functions:
    """The functions of one pool. Each version of a function has a number as long as it lives.

    A function is pickled when a job of it is put for the first time, and again when it or its
    globals have changed since. Bound methods and instances with `__call__` are sent with the
    arguments each time.

    Args:
        exports: Collects definitions.
        by_name: Whether workers import the program's script.
        inherit: Whether workers are forked, and inherit functions that cannot be pickled.
        always: Whether workers inherit all functions, and calls that cannot be pickled, since one
            is forked for each job.
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
        self._lock = native.RLock()
        self._versions: weakref.WeakKeyDictionary[Any, _Version] = weakref.WeakKeyDictionary()
        self._calls: weakref.WeakKeyDictionary[Any, Subject] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count(1)
        self._alive: weakref.WeakValueDictionary[int, Numbered] = weakref.WeakValueDictionary()
        self._last: tuple[Any, Moment] = None, _UNSENT  # a function that cannot change
        self._globals = Globals(self._know, exports, by_name=by_name, inherit=inherit)
        self._touched: dict[tuple[int, ...], _Touched] = {}

    def _know(self, thing: Numbered) -> None:
        thing.number = next(self._numbers)
        self._alive[thing.number] = thing

    def of(self, function: Any) -> Moment:
        """Return the functions and globals that a job of a function needs now.

        Raises:
            SerializationError: The function, or a global that it uses, cannot be pickled.
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
        """Find the changes of a function since `before`, and pickle them."""
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
        """Add the globals of functions and classes among a job's arguments to an environment.

        Raises:
            SerializationError: One of these globals cannot be pickled.
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
        """Return a number for a call that a forked worker inherits; None if there is no fork."""
        if not self._always:
            return None
        with self._lock:
            subject = self._calls[call] = Subject(0, None)
            self._know(subject)
        return subject

    def pace_of(self, function: Any) -> Pace | None:
        """Return the duration of calls of a function, if any were made."""
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
        if nameless and any(definitions.key_of(obj) in nameless for obj in touched):
            return None
        return packed

    def gone_of(self, numbers: set[int]) -> list[int]:
        """Return those numbers whose functions do not exist any more."""
        alive = self._alive
        if len(numbers) <= len(alive):
            return []
        return [number for number in numbers if number not in alive]

    def adopt(self, things: dict[int, Any], gone: list[int]) -> None:
        """Add functions and environments that another process has numbered, and remove some."""
        self._alive.update(things)
        for number in gone:
            self._alive.pop(number, None)

    def inheritance(self) -> dict[int, Any]:
        """Return the functions that a forked worker inherits, and values that cannot be pickled."""
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
    """Functions and classes that were among a job's arguments, and the globals that they use."""

    objects: list[Any]  # kept alive, so that their ids are not reused
    environment: Environment | None
    watch: Watch
