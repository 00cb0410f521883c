"""The other side of `knowledge`: the definitions that a process has got, to rebuild objects.

`Definitions` is for a reader of results; `Learnt` is for a worker, which also makes the calls.
"""

from __future__ import annotations

import itertools
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..packing import definitions, function_globals, remote_errors, serialize, shared_values
from ..packing.bindings import Bindings
from ..processes import child_main
from ..system import module_path, nameless_files
from ..workers.runners import let_go
from . import log_records
from .api import DEFINED, DONE, FAILED, SOME, Event, call_chunk
from .process import kept_results, protocol as packets

if TYPE_CHECKING:
    from collections.abc import Callable

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


class Learnt(Definitions):
    """All that a worker was told. It makes calls, and packs their results.

    Args:
        send: Sends a report to the engine: its event, the job's id, parts, and for an answer the
            moments of the call's start and end.
        is_forked: Whether this process has the memory of the one that sends jobs.

    Attributes:
        exports: The definitions to which results refer; those pending are to be sent before them.
        job_name: The name of the present job.
    """

    def __init__(self, send: Callable[..., None], *, is_forked: bool = False) -> None:
        super().__init__()
        function_globals.share_globals(is_forked=is_forked)
        self.send = send
        names = definitions.Names.FORKED if is_forked else definitions.Names.INSTEAD
        self.exports = serialize.Exports(names)
        self.job_name: Any = None
        self._things: dict[int, Any] = {}  # functions, environments, values
        self._packed: dict[int, Any] = {}  # those that no job has needed yet
        self._bindings = Bindings(self._thing)

    def begin(
        self,
        name: str,
        levels: dict[str, int],
        initializer: Callable[..., Any] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        """Begin to be a worker: forward log records, and call the initializer.

        Args:
            name: The worker's name.
            levels: As of `log_records.forward`.
            initializer: Its changes of the worker's global names are kept; or None.
            initargs: Its arguments.
        """
        child_main.worker_name = name
        log_records.forward(self, name, levels)
        if initializer is not None:
            from ..packing.environment import Contents

            contents = Contents((initializer, *initargs))
            initializer(*initargs)
            contents.keep_changed()

    def inherit(self, things: dict[int, Any]) -> None:
        """Take over the functions and values of the process that has forked this one."""
        self._things.update(things)

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
            self._things[number] = serialize.loads(self._packed[number], self, True)
            del self._packed[number]
        return self._things[number]

    def answer(self, head: bytes, data: Any, to_do: list[int] | None) -> None:
        """Make the call of a job, or the calls `to_do` of a chunk, and send the answer."""
        kind, number, environment, job, _ = packets.MESSAGE.unpack(head)
        is_chunk = kind & packets.KIND_BITS == packets.CHUNK
        chunk = partial(self._call_chunk, job, to_do) if is_chunk else None
        what, *answer = self.call(job, number, environment, data, chunk)
        self.send_definitions()
        self.send(what, job, *answer)

    def call(
        self,
        job: int,
        number: int,
        environment: int,
        data: Any,
        chunk: Callable[..., list[Any]] | None = None,
    ) -> tuple[Event, list[Any], float, float]:
        """Make the call of a job.

        Args:
            job: The job's id.
            number: The number of its function; 0 if the function comes with the arguments.
            environment: The number of its environment, or 0.
            data: Its packed arguments, or the error for which it fails.
            chunk: For a chunk, makes its calls and returns the last part of the results.

        Returns:
            DONE or FAILED, the parts of the answer, and the moments of start and end in seconds.

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
            if chunk is not None:
                parts = chunk(function, *args)
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
            return FAILED, parts, started, ended
        if chunk is not None:
            return DONE, parts, started, ended
        try:
            parts = serialize.dump_result(value, self.exports)
        except Exception as error:
            return FAILED, [remote_errors.dump_error(error)], started, ended
        return DONE, parts, started, ended

    def _unpack(
        self, job: int, number: int, data: Any
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any] | None]:
        if isinstance(data, BaseException):
            raise data
        if number:
            args, kwargs, *name = serialize.loads(data, self, True)
            function = self._things.get(number) or self._thing(number)
        else:
            function, args, kwargs, *name = serialize.loads(data, self, True)
        self.job_name = name[0] if name else job
        return function, args, kwargs

    def _call_chunk(
        self,
        job: int,
        to_do: list[int] | None,
        function: Callable[..., Any],
        items: list[Any],
        unpack: bool,
        go_on: bool,
    ) -> list[Any]:
        """Make the calls of a chunk, and send each result at once; see `call`."""
        places = itertools.count()

        def keep(result: Any) -> None:
            parts = serialize.dump_result(result, self.exports)
            self.send_definitions()
            self.send(SOME, job, kept_results.part(next(places), parts))

        def fail(error: BaseException) -> None:
            parts = [remote_errors.dump_error(error)]
            self.send(SOME, job, kept_results.part(next(places), parts, is_error=True))

        call_chunk(function, items, unpack, go_on, to_do, keep, fail)
        return kept_results.part(next(places))

    def send_definitions(self) -> None:
        """Send the definitions that results refer to, before the results."""
        for key, packed in list(self.exports.pending.items()):
            self.send(DEFINED, 0, [key, packed])
            self.exports.sent([key])
