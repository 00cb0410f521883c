"""The codec of an engine whose workers are other processes: packs jobs, and rebuilds answers.

    job ── pack ──> job._packet ── engine ──> worker: `Learnt` ── kind, data ──> rebuild ──> result

Any thread may pack; one thread rebuilds.
"""

from __future__ import annotations

import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import SerializationError
from ..jobs.job import DEFAULT_OPTIONS
from ..packing import definitions, remote_errors, serialize
from ..packing.shared_values import Shares
from ..system import module_path
from .api import DEFINED, DIED, DONE, FAILED, LOGGED, NOT_STARTED, SOME, Engine, Event, Report
from .functions import Functions
from .learnt import Definitions
from .log_records import rebuild_record
from .process import kept_results, protocol as packets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..jobs.job import Job
    from .functions import Moment

_new_tuple: Any = tuple.__new__  # takes a fifth of the time of calling a NamedTuple

AHEAD_BYTES = packets.BESIDE_BYTES
"""Larger jobs are not sent ahead, as each would take up a file."""

_SIMPLE = frozenset((int, float, str, bytes, bool, type(None)))  # plain pickle suffices for these


class _Inherited(bytes):
    """The message of a job that a forked worker inherits; it keeps the call alive."""

    call: partial[Any]


class Codec:
    """Packs the jobs of one engine, and rebuilds their answers.

    Args:
        names: How workers get the names that the program's script defines; see `Names`.
        is_remote: Whether workers may be on other machines.
        always_inherit: Whether a worker is forked for each job, and inherits its function.
        join: Joins the parts of a pickled object.

    Attributes:
        exports: The definitions to which packed objects refer; see `Exports`.
        functions: The functions that jobs call, and their globals.
        shares: The shared values to which packed objects refer.
        files: Returns the modules that workers are to load from their files.
        has_codec: Whether workers may write results of a chunk with the native codec.
        hands_on: Whether a worker that is forked for it inherits a job that cannot be pickled;
            otherwise the job fails.
    """

    has_codec = kept_results.HAS_CODEC
    hands_on = True

    def __init__(
        self,
        names: int,
        *,
        is_remote: bool = False,
        always_inherit: bool = False,
        join: Callable[[list[Any]], bytes | memoryview] = b"".join,
    ) -> None:
        self.exports = serialize.Exports(names, apart=True)
        self.functions = Functions(
            self.exports,
            by_name=names == definitions.Names.INSTEAD,
            inherit=names == definitions.Names.FORKED,
            always=always_inherit,
        )
        self.shares = Shares(is_remote=is_remote)
        self.files: Callable[[], dict[str, tuple[str, bool]]] = (
            dict if is_remote else module_path.by_file
        )
        self.imports = Definitions()
        self._join = join
        self._rebuilder = kept_results.Rebuilder(self.imports)

    # -- jobs ----------------------------------------------------------------------------------

    def moment_of(self, function: Callable[..., Any]) -> Moment:
        """Return the state of a function for jobs that are packed later; see `Engine`."""
        return self.shares.collect(self.functions.of, function)

    def pack(self, job: Job, moment: Moment | None = None) -> None:
        """Pickle a job's arguments, and those parts of its function and globals that have changed.

        Args:
            job: The job.
            moment: The state of the function to use; None is its present state.

        Raises:
            SerializationError: The function, an argument or a global cannot be pickled.
        """
        try:
            self.shares.collect(self._pack, job, moment)
        except SerializationError:
            if not self.shares.collect(self._hand_on, job):
                raise

    def _pack(self, job: Job, moment: Moment | None) -> None:
        options = job._options
        subject, environment = self.functions.of(job.function) if moment is None else moment
        job._environment = environment
        named = () if options.name is None else (options.name,)
        kind = packets.CHUNK if job._is_chunk else packets.JOB
        if subject is None:
            call = (job.function, job.args, job.kwargs, *named)
            job._packet = lay_out(kind, 0, job, self._pack_objects(call, job))
            return
        simple = options is DEFAULT_OPTIONS and not job.kwargs
        packed: bytes | memoryview
        if simple and _SIMPLE.issuperset(map(type, job.args or ())):
            packed = pickle.dumps((job.args, None), 5)
        else:
            packed = self._pack_objects((job.args, job.kwargs, *named), job)
        job._subject = subject
        job._packet = lay_out(kind, subject.number, job, packed)
        job._may_wait = (
            len(packed) <= AHEAD_BYTES
            and options.timeout is None
            and options.lane is None
            and (not options.retries or job._is_of_map)
        )

    def _pack_objects(self, objects: tuple[Any, ...], job: Job) -> bytes | memoryview:
        """Pickle objects; if they refer to functions or classes, the job needs their globals."""
        touched: list[Any] = []
        reducers = serialize.destination.reducers
        parts = serialize.dump_parts(objects, self.exports, touched, reducers=reducers)
        if touched:
            job._environment = self.functions.with_objects(job._environment, touched)
        return self._join(parts)

    def _hand_on(self, job: Job) -> bool:
        """Let a forked worker inherit a job that cannot be pickled; False if that is impossible."""
        if job._is_chunk or not self.hands_on:
            return False
        assert job.function is not None
        call = partial(job.function, *(job.args or ()), **(job.kwargs or {}))
        subject = self.functions.inherited(call)
        if subject is None:
            return False
        job._subject = subject
        named = () if job._options.name is None else (str(job._options.name),)
        packed = pickle.dumps(((), None, *named), 5)
        packet = _Inherited(lay_out(packets.JOB, subject.number, job, packed))
        packet.call = call
        job._packet = packet
        return True

    # -- answers -------------------------------------------------------------------------------

    def take(self, worker: str, what: Event, data: bytes | memoryview) -> Report | None:
        """Make the report of a worker's frame that is no answer; None if it is a definition."""
        value: Any = None
        if what is DEFINED:
            self.define(worker, data)
            return None
        if what is LOGGED:
            value = self.log_record(data)
        elif what is NOT_STARTED:
            value = remote_errors.load_error(data)
        return Report(what, None, value, worker=worker)

    def define(self, worker: str, data: bytes | memoryview) -> None:
        """Take in a definition by a worker, which its next answers refer to."""
        self.imports.add(data)

    def log_record(self, data: bytes | memoryview) -> Any:
        """Return the log record of a worker."""
        return rebuild_record(data)

    def answer(
        self,
        what: Event,
        job: Job,
        data: Any,
        started_s: float,
        ended_s: float,
        worker: str | None,
        parts: Iterable[kept_results.Part] = (),
    ) -> Report:
        """Make the report of a worker's answer.

        Args:
            what: DONE or FAILED.
            job: The job.
            data: The packed value.
            started_s: As of a `Report`.
            ended_s: As of a `Report`.
            worker: The worker's name.
            parts: For a chunk, the parts of its results that came before.
        """
        if what is DONE and job._is_chunk:
            end = Report(DONE, job, None, started_s, ended_s, 0, worker)
            return self.chunk(end, [*parts, (SOME, data)])
        value: Any
        try:
            if what is DONE:
                value, code = serialize.loads(data, self.imports, True), 0
            else:
                value, code = remote_errors.load_error(data), 1
        except BaseException as error:  # rebuilding an object may raise anything
            what, value, code = FAILED, remote_errors.not_rebuilt(error), 1
        report: Report = _new_tuple(Report, (what, job, value, started_s, ended_s, code, worker))
        return report

    def chunk(self, end: Report, parts: list[kept_results.Part]) -> Report:
        """Return the end of a chunk with the outcome of its calls as the value.

        Args:
            end: Its value is the death of the worker, or None.
            parts: The parts of the results.
        """
        assert end.job is not None
        outcome = self._rebuilder.outcome(parts, end.job._num_to_do, end.value)
        if any(error is end.value for error in outcome[1].values()):
            return end._replace(what=DIED, value=outcome)
        return end._replace(what=DONE, value=outcome, exitcode=0)


class PackingEngine(Engine):
    """An engine whose workers are other processes.

    Attributes:
        codec: Packs its jobs, and rebuilds their answers.
    """

    codec: Codec

    def moment_of(self, function: Callable[..., Any]) -> Moment:
        """Return the state of a function for jobs that are prepared later; see `Engine`."""
        return self.codec.moment_of(function)

    def prepare(self, job: Job, moment: Moment | None = None) -> None:
        """Pickle the arguments, and changes of the function and its globals; see `Engine`."""
        self.codec.pack(job, moment)

    def has_large_arguments(self, job: Job) -> bool:
        """Compare the size of the packet, if it has arguments only; see `Engine`."""
        packet = job._packet
        if type(packet) is bytes:
            return False
        is_large = type(packet) is tuple and job._subject is not None
        return is_large or super().has_large_arguments(job)

    def mean_of(self, function: Callable[..., Any]) -> float | None:
        """Return the mean duration of calls of a function; see `Engine`."""
        pace = self.codec.functions.pace_of(function)
        return None if pace is None else pace.mean_s


def lay_out(kind: int, number: int, job: Job, packed: bytes | memoryview) -> Any:
    """Return a job's message; if it is large, its head and the payload to send separately."""
    environment = job._environment
    place = 0 if environment is None else environment.number
    if len(packed) > packets.BESIDE_BYTES:
        return packets.MESSAGE.pack(kind | packets.BESIDE, number, place, job.id, 0), packed
    return packets.MESSAGE.pack(kind, number, place, job.id, len(packed)) + packed


def split(packet: Any) -> tuple[bytes, bytes | memoryview]:
    """Return the head of a job's message, and its payload."""
    if type(packet) is tuple:
        return packet
    return packet[: packets.MESSAGE.size], memoryview(packet)[packets.MESSAGE.size :]
