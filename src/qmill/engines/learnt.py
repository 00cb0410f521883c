"""The other side of `knowledge`: what a process has learnt, with which it rebuilds objects.

`Definitions` is for a reader of results; `Learnt` is for a worker, which also makes the calls.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import SerializationError
from ..packing import definitions, remote_errors, serialize, shared_values
from ..packing.bindings import Bindings
from ..system import module_path, nameless_files
from ..workers.api import let_go
from .api import DONE, FAILED
from .process import protocol as packets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .knowledge import Lesson


class Definitions:
    """Definitions by the other side, in which `serialize` looks up classes and functions."""

    by_value_first = True

    def __init__(self) -> None:
        self.packed: dict[bytes, Any] = {}
        self._built: dict[bytes, Any] = {}

    def fetch(self, key: bytes) -> bytes:
        """Return a packed definition, or raise KeyError."""
        found: bytes = self.packed[key]
        return found

    def add(self, data: bytes | memoryview) -> None:
        """Store a definition: its key, and the pickled object."""
        self.packed[bytes(data[: packets.KEY_BYTES])] = bytes(data[packets.KEY_BYTES :])

    def keep(self, key: bytes, built: Any) -> None:
        """Keep a rebuilt definition alive."""
        self._built[key] = built
        self.packed.pop(key, None)

    def rebuild(self, kind: int, data: Any) -> tuple[int, int, Any]:
        """Rebuild an answer: DONE or FAILED, the exit code, and the result or the exception."""
        try:
            if kind != packets.VALUE:
                return FAILED, 1, remote_errors.load_error(data)
            return DONE, 0, serialize.loads(data, self)
        except SerializationError as error:
            return FAILED, 1, error
        except BaseException as error:  # rebuilding an object may raise anything
            why = f"the result could not be rebuilt: {type(error).__name__} was raised"
            return FAILED, 1, SerializationError(why)


class Learnt(Definitions):
    """All that a worker was told. It makes calls, and packs their results.

    Attributes:
        exports: The definitions to which results refer; those pending are to be sent before them.
        job_name: The name of the present job.
    """

    def __init__(self) -> None:
        super().__init__()
        self.exports = serialize.Exports(definitions.Names.INSTEAD)
        self.job_name: Any = None
        self._things: dict[int, Any] = {}  # functions, environments, values
        self._packed: dict[int, Any] = {}  # those that no job has needed yet
        self._bindings = Bindings(self._thing)

    def inherit(self, things: dict[int, Any]) -> None:
        """Take over the functions and values of the process that has forked this one."""
        self._things.update(things)
        self.exports = serialize.Exports(definitions.Names.FORKED)

    def learn(self, lesson: Lesson) -> None:
        """Take in a lesson."""
        module_path.learn(lesson.files)
        self._packed.update(lesson.functions)
        self.packed.update(lesson.definitions)
        for key, packed in lesson.shares.items():
            shared_values.receive(key, nameless_files.write_file([packed]))
        for number in lesson.gone_functions:
            self._things.pop(number, None)
            self._packed.pop(number, None)
        for key in lesson.gone_shares:
            shared_values.forget(key)

    def value_of(self, sent: tuple[int, int]) -> Any:
        """Return a value that was sent before, by its number and place, for `serialize`."""
        number, place = sent
        return self._thing(number)[place]

    def _thing(self, number: int) -> Any:
        """Return the function or value of a number; it is rebuilt when it is first needed."""
        if number not in self._things:
            packed = serialize.writable(self._packed[number])
            self._things[number] = serialize.loads(packed, self)
            del self._packed[number]
        return self._things[number]

    def call(
        self,
        job: int,
        number: int,
        environment: int,
        data: Any,
        call_chunk: Callable[..., list[Any]] | None = None,
    ) -> tuple[int, list[Any], float, float]:
        """Make the call of a job.

        Args:
            job: The job's id.
            number: The number of its function; 0 if the function comes with the arguments.
            environment: The number of its environment, or 0.
            data: Its packed arguments, or the error that kept them from being read.
            call_chunk: For a chunk, makes its calls and returns what is to be sent at the end.

        Returns:
            The kind of the answer, its parts, and the moments of start and end in seconds.

        Raises:
            SystemExit: The function has raised it, with a code other than 0.
        """
        started = ended = monotonic()
        value: Any = None
        parts: list[Any] = []
        try:
            if environment:
                self._bindings.set(environment)
            function, args, kwargs = self._unpack(job, number, data)
            del data
            started = monotonic()
            if call_chunk is not None:
                parts = call_chunk(function, *args)
            else:
                value = function(*args, **kwargs) if kwargs else function(*args)
            ended = monotonic()
            del function, args, kwargs  # objects of a job are freed before the wait for the next
        except SystemExit as error:
            if error.code:
                raise
            ended = monotonic()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            ended = monotonic()
            parts = [remote_errors.dump_error(error)]
            let_go(error)
            return packets.ERROR, parts, started, ended
        if call_chunk is not None:
            return packets.VALUE, parts, started, ended
        try:
            parts = serialize.dump_result(value, self.exports)
        except Exception as error:
            return packets.UNSENT, [remote_errors.dump_error(error)], started, ended
        return packets.VALUE, parts, started, ended

    def _unpack(
        self, job: int, number: int, data: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any] | None]:
        if isinstance(data, OSError):
            raise data
        packed = serialize.writable(data)
        if number:
            args, kwargs, *name = serialize.loads(packed, self)
            function = self._things.get(number) or self._thing(number)
        else:
            function, args, kwargs, *name = serialize.loads(packed, self)
        self.job_name = name[0] if name else job
        return function, args, kwargs

    def new_definitions(self) -> Iterator[list[Any]]:
        """Yield definitions that results refer to and that are to be sent now: key and object."""
        for key, packed in list(self.exports.pending.items()):
            yield [key, packed]
            self.exports.sent([key])
