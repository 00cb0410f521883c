"""Programs that interrupt each call of a queue at every place where CPython runs signal handlers.

A signal is made to wait at the n-th instruction of a call, and CPython chooses where its handler
runs, which raises: n grows until the call ends before it. After each the queue is looked over.

    python -m tests.crash.interruptions TRANSPORT FIRST STEP [CASE...]

FIRST and STEP choose the instructions: with 1 and 1 it is each of them.
"""

from __future__ import annotations

import contextlib
import dis
import gc
import logging
import os
import signal
import sys
import tempfile
import traceback
from _thread import interrupt_main
from collections import defaultdict
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING, Any

import qmill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SIGNAL = signal.SIGUSR1
_NUM_CANARIES = 6
_QUIET = {
    dis.opmap[name]
    for name in ["CACHE", "COPY", "COPY_FREE_VARS", "IS_OP", "KW_NAMES", "LOAD_CONST"]
    + ["LOAD_DEREF", "LOAD_FAST", "LOAD_GLOBAL", "MAKE_CELL", "NOP", "PRECALL", "PUSH_NULL"]
    + ["RETURN_VALUE", "STORE_DEREF", "STORE_FAST", "SWAP"]
    if name in dis.opmap
}
"""Instructions at which no handler runs, and none in what they call."""


_AT_FORK = {
    getattr(logging, name).__code__
    for name in ("_acquireLock", "_releaseLock", "_prepareFork", "_afterFork")
    if hasattr(logging, name)
}
"""Functions of Python that run before and after a fork in the parent; see docs/promises.md."""


class Interrupted(Exception):
    """What the handler raises, as one of `signal.setitimer` might: no KeyboardInterrupt."""


class Interruption:
    """Makes one call, in which a handler raises."""

    def __init__(self) -> None:
        self.reached = False
        self.is_over = True  # not reached, and no larger number would be
        self.raised_at = ""
        self.raised_within: set[str] = set()
        self.canaries: list[int] = []
        self._is_armed = False
        self._countdown = 0
        self._pid = os.getpid()
        # CPython 3.11 holds no reference to the function of `settrace` while it calls it: without
        # ours it is freed if the handler runs in a `__del__` that is run just then.
        self._tracer = self._trace
        # Looking up a key makes the signal wait, and is no instruction at which its handler runs.
        self._fuse: Any = defaultdict(partial(interrupt_main, _SIGNAL))
        signal.signal(_SIGNAL, self._handle)
        # CPython 3.12 traces instructions from the first `settrace` after this on.
        sys._getframe().f_trace_opcodes = True

    def _handle(self, number: int, frame: Any) -> None:
        if self._is_armed:
            self._is_armed = False
            sys.settrace(None)
            if any(each.f_code in _AT_FORK for each in _out(frame)):
                self.reached = False  # CPython would drop the exception
                self.is_over = False
                return
            code = frame.f_code
            self.raised_at = f"{os.path.basename(code.co_filename)}:{frame.f_lineno}"
            self.raised_within = {os.path.basename(each.f_code.co_filename) for each in _out(frame)}
            # They take the numbers that were just given back: who closes one twice closes theirs.
            self.canaries = [os.dup(0) for _ in range(_NUM_CANARIES)]
            raise Interrupted

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "opcode" and _code_of(frame.f_code)[frame.f_lasti] not in _QUIET:
            self._countdown -= 1
            if self._countdown == 0:
                sys.settrace(None)
                if os.getpid() != self._pid:  # a forked child begins with no signals that wait
                    return None
                self.reached = True
                self._fuse[len(self._fuse)]
        return self._step

    def make(
        self, call: Callable[..., Any], *arguments: Any, number: int
    ) -> tuple[list[Any], BaseException | None]:
        """Make a call with the interruption at its n-th instruction; what it returned, or raised.

        It is both if the handler ran after the call had returned.
        """
        returned: list[Any] = []
        self.reached, self._is_armed, self._countdown = False, True, number
        self.is_over = True
        calls = starmap(call, [arguments])
        error = None
        try:
            sys.settrace(self._tracer)
            returned.extend(calls)  # one instruction: what is returned has come
            sys.settrace(None)
        except BaseException as raised:
            sys.settrace(None)
            error = raised
        self._is_armed = False
        sys.settrace(None)
        return returned, error

    def check_canaries(self) -> None:
        """See that nobody has closed the descriptors that were opened in the handler."""
        while self.canaries:
            os.close(self.canaries.pop())


def _out(frame: Any) -> Iterator[Any]:
    while frame is not None:
        yield frame
        frame = frame.f_back


_codes: dict[Any, bytes] = {}


def _code_of(code: Any) -> bytes:
    found = _codes.get(code)
    if found is None:
        found = _codes[code] = code.co_code
    return found


# -- what travels ------------------------------------------------------------------------------


class Careful:
    """A message whose class has methods of Python that run when it is packed and rebuilt."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> dict[str, int]:
        return {"number": int(str(self.number))}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.number = int(str(state["number"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Careful) and self.number == other.number

    def __hash__(self) -> int:
        return self.number

    def __repr__(self) -> str:
        return f"Careful({self.number})"


def large(number: int) -> bytes:
    """Return a message of 100 kB."""
    return number.to_bytes(4, "big") * 25_000


CONTENTS: dict[str, Callable[[int], Any]] = {"int": int, "careful": Careful, "large": large}


# -- cases -------------------------------------------------------------------------------------


class Case:
    """One call on one queue.

    Args:
        name: What is called.
        call: Is given the queue, and tells what is called with what.
        waiting: How many messages wait before it.
        puts: How many it puts.
        takes: How many it takes.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[Any, Callable[[int], Any]], tuple[Any, ...]],
        waiting: int = 2,
        puts: int = 0,
        takes: int = 0,
    ) -> None:
        self.name, self.call, self.waiting = name, call, waiting
        self.puts, self.takes = puts, takes


CASES = [
    Case("put", lambda q, make: (q.put, make(2)), puts=1),
    Case("put timeout", lambda q, make: (q.put, make(2), True, 9), puts=1),
    Case("put_nowait", lambda q, make: (q.put_nowait, make(2)), puts=1),
    Case("put_many", lambda q, make: (q.put_many, [make(2), make(3)]), puts=2),
    Case("get", lambda q, make: (q.get,), takes=1),
    Case("get timeout", lambda q, make: (q.get, True, 9), takes=1),
    Case("get_nowait", lambda q, make: (q.get_nowait,), takes=1),
    Case("get_many", lambda q, make: (q.get_many, 3), waiting=4, takes=3),
    Case("next", lambda q, make: (next, iter(q)), takes=1),
    Case("peek", lambda q, make: (q.peek,)),
    Case("qsize", lambda q, make: (q.qsize,)),
    Case("empty", lambda q, make: (q.empty,)),
    Case("full", lambda q, make: (q.full,)),
    Case("statistics", lambda q, make: (q.statistics,)),
    Case("join", lambda q, make: (q.join,), waiting=0),
    Case("maxsize", lambda q, make: (setattr, q, "maxsize", 10)),
]


def finish(queue: Any, expected: list[Any]) -> None:
    """Take what waits, see that it is this and counted right, and that the queue still works."""
    counts = queue.statistics()
    assert counts.size == len(expected), (counts, expected)
    rest = []
    for _ in expected:
        rest.append(queue.get(timeout=10))
    assert rest == expected, (rest, expected)
    assert queue.empty()
    assert counts.leased == 0, counts
    queue.put(rest[0] if rest else 7)
    assert queue.full() == (queue.maxsize == 1)
    queue.get(timeout=10)


def check_counts(queue: Any, num_put: int) -> None:
    """See that all that was put is counted, and that `join` ends."""
    counts = queue.statistics()
    assert (counts.put, counts.taken) == (num_put, num_put), (counts, num_put)
    for _ in range(num_put - counts.done):
        queue.task_done()
    assert queue.statistics().unfinished == 0, queue.statistics()
    queue.join()


def run_case(
    case: Case, make: Callable[[int], Any], queue_of: Callable[[], Any], first: int, step: int
) -> int:
    """Interrupt a call at each so-many-th instruction; return at how many places it was."""
    places = set()
    number = 0  # none at first: what is imported late, is then
    interruption = Interruption()
    files = -1
    while True:
        queue = queue_of()
        before = [make(each) for each in range(case.waiting)]
        for each in before:
            queue.put(each)
        returned, error = interruption.make(*case.call(queue, make), number=number)
        reached = interruption.reached
        at = interruption.raised_at
        try:
            assert error is None or type(error) is Interrupted, repr(error)
            assert returned or error is not None
            assert not reached or error is not None, "nobody was told of the interruption"
            if error is not None and not returned:
                error.__traceback__ = None
                puts, takes = 0, 0
            else:
                puts, takes = case.puts, case.takes
                if takes == 1:
                    assert returned == before[:1], returned
                elif takes:
                    assert returned == [before[:takes]], returned
            error = None
            interruption.check_canaries()
            expected = [*before, *(make(2 + each) for each in range(puts))][takes:]
            finish(queue, expected)
            check_counts(queue, case.waiting + puts + 1)
        except BaseException as wrong:
            wrong.add_note(f"in {case.name}, {make}, at {number}: raised at {at}")
            raise
        queue.close()
        del queue
        now = num_files()
        if files >= 0:
            assert now <= files, (case.name, number, at, now, files)
        files = now
        if number and not reached:
            return len(places)
        number = number + step if number else first
        places.add(at)


def num_files() -> int:
    """Count the open descriptors, when garbage is gone."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# -- transports --------------------------------------------------------------------------------

_names = iter(range(10**9))


def named() -> Any:
    """Make a queue with a name of its own."""
    return qmill.Queue(5, name=f"interrupted-{next(_names)}")


TRANSPORTS: dict[str, Callable[[], Any]] = {
    "thread": lambda: qmill.Queue(5, kind="thread"),
    "shared": lambda: qmill.Queue(5),
    "portable": lambda: qmill.Queue(5),
    "named": named,
    "named-portable": named,
}


@contextlib.contextmanager
def unraisable() -> Iterator[list[str]]:
    """List where exceptions were lost, as in `__del__`."""
    lost: list[str] = []
    sys.unraisablehook = lambda told: lost.append(f"{told.object!r} {told.exc_value!r}")
    try:
        yield lost
    finally:
        sys.unraisablehook = sys.__unraisablehook__


def main(transport: str, first: str, step: str, *chosen: str) -> None:
    """Run the cases of one transport."""
    has_failed = False
    with tempfile.TemporaryDirectory() as os.environ["QMILL_DIR"], unraisable() as lost:
        for content, make in CONTENTS.items():
            for case in CASES:
                if chosen and case.name not in chosen:
                    continue
                try:
                    found = run_case(case, make, TRANSPORTS[transport], int(first), int(step))
                    print(content, case.name, found)
                except Exception:
                    has_failed = True
                    traceback.print_exc(limit=-3)
    assert not lost, lost
    sys.exit(has_failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
