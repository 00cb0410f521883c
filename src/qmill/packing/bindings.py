"""Binds global names in a worker to the values that they had in the program when a job was put.

`_environment` is the other side: it packs the values, and lists the names bound to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import function_globals, serialize

if TYPE_CHECKING:
    from collections.abc import Callable


def loads_in_process(packed: bytes | bytearray | memoryview, names: Any) -> Any:
    """Rebuild, in a new process, an object packed by `environment.dumps_for_process`.

    Args:
        packed: The packed object.
        names: The globals that came with it, or None.
    """
    if names is None:
        return serialize.loads(packed)
    number, things = names
    built: dict[int, Any] = {}

    def thing(number: int) -> Any:
        if number not in built:
            built[number] = serialize.loads(things[number], sent, True)
        return built[number]

    def rebuild() -> Any:
        if number:
            Bindings(thing).set(number)
        return serialize.loads(packed, sent)

    sent = _Sent(thing)
    return function_globals.with_shared_globals(rebuild)


class _Sent:
    """Finds the values that came with an object, whose definitions are inside it."""

    by_value_first = True

    def __init__(self, thing: Callable[[int], Any]) -> None:
        self._thing = thing

    def value_of(self, sent: tuple[int, int]) -> Any:
        return self._thing(sent[0])[sent[1]]

    def fetch(self, key: bytes) -> bytes:
        raise KeyError(key)

    def keep(self, key: bytes, built: Any) -> None:
        return


class Bindings:
    """The bindings of a worker's global names to values.

    Args:
        thing: Returns, by number, an environment's list of bindings or a list of values.
    """

    def __init__(self, thing: Callable[[int], Any]) -> None:
        self._thing = thing
        self._current = 0
        self._bound: dict[tuple[str, str], tuple[int, int]] = {}

    def set(self, environment: int) -> None:
        """Bind the names of an environment that are bound to other values.

        Args:
            environment: The number of the environment.

        Raises:
            SerializationError: A value cannot be rebuilt in this process.
        """
        if environment == self._current:
            return
        self._current = 0
        for label, name, number, place in self._thing(environment):
            before = self._bound.get((label, name))
            if before != (number, place):
                values = self._thing(number)
                self._bound[label, name] = number, place
                if label.startswith(function_globals.CLASS):
                    cls, value = values[place]
                    function_globals.set_attribute(cls, name, value)
                    continue
                # Later values that refer to this one get the object that is bound.
                values[place] = function_globals.bind(
                    label, name, values[place], is_first=before is None
                )
        self._current = environment
