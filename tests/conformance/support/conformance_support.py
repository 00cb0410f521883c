"""What the conformance tests stand on: transports, and others who use a queue at the same time.

    Call      a function in a thread of this process
    Child     a function of `conformance_children` in a process that `multiprocessing` started
    Program   source in an interpreter of its own, as a user would have started it

Nothing here sleeps and nothing waits for ever: whoever has not answered after `LIMIT_S` seconds
makes the test fail.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, NamedTuple

import conformance_children

import qmill

LIMIT_S = 30.0

# Each transport's name, and the kind of queue that travels by it: add a transport here.
TRANSPORTS = {
    "thread": "thread",
    "portable": "process",
}
if qmill.core_info().core:  # it was built
    TRANSPORTS["shared"] = "process"

# Calls that must not wait, whatever the state of the queue, and one that hardly may.
NOT_WAITING = (
    {"block": False},
    {"timeout": 0},
    {"timeout": 0.0},
    {"block": False, "timeout": LIMIT_S},
    {"timeout": 0.01},
)

# Every call that reaches for the queue.
CALLS = {
    "put": lambda queue: queue.put("item"),
    "put_nowait": lambda queue: queue.put_nowait("item"),
    "put_many": lambda queue: queue.put_many(["item"]),
    "get": lambda queue: queue.get(),
    "get with timeout": lambda queue: queue.get(timeout=LIMIT_S),
    "get_nowait": lambda queue: queue.get_nowait(),
    "get_many": lambda queue: queue.get_many(2),
    "peek": lambda queue: queue.peek(),
    "iteration": lambda queue: next(iter(queue)),
    "qsize": lambda queue: queue.qsize(),
    "empty": lambda queue: queue.empty(),
    "full": lambda queue: queue.full(),
    "statistics": lambda queue: queue.statistics(),
    "maxsize": lambda queue: queue.maxsize,
    "setting maxsize": lambda queue: setattr(queue, "maxsize", 3),
    "is_shutdown": lambda queue: queue.is_shutdown,
    "unfinished_tasks": lambda queue: queue.unfinished_tasks,
    "task_done": lambda queue: queue.task_done(),
    "join": lambda queue: queue.join(),
    "shutdown": lambda queue: queue.shutdown(),
}


class Place(NamedTuple):
    """A transport, and whether the queue is made here or is a handle to somebody else's."""

    transport: str
    made: str = "here"

    @property
    def kind(self):
        return TRANSPORTS[self.transport]

    def __str__(self):
        return self.transport if self.made == "here" else f"{self.transport}-handle"


HERE = [Place(transport) for transport in TRANSPORTS]
PROCESS_HERE = [place for place in HERE if place.kind == "process"]
PROCESS_PLACES = [Place(p.transport, made) for p in PROCESS_HERE for made in ("here", "elsewhere")]
PLACES = [place for place in HERE if place.kind != "process"] + PROCESS_PLACES


def wait_until_asleep(pid, thread=None):
    """Wait until a process (or one of its threads) sleeps in the kernel, and keeps sleeping."""
    if not os.path.exists("/proc/self/task"):
        threading.Event().wait(0.5)  # the best there is without Linux's /proc
        return
    seen, times = None, 0
    for _ in range(int(LIMIT_S * 200)):
        now = _sleepers(pid, thread)
        times = times + 1 if now is not None and now == seen else 0
        if times == 3:
            return
        seen = now
        threading.Event().wait(0.005)
    raise TimeoutError(f"process {pid}, thread {thread} never came to rest")


def _sleepers(pid, thread):
    """How often each thread has gone to sleep, or None if one is awake."""
    counts = {}
    for task in [thread] if thread else os.listdir(f"/proc/{pid}/task"):
        status = Path(f"/proc/{pid}/task/{task}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if not fields["State"].startswith("S"):
            return None
        counts[task] = fields["voluntary_ctxt_switches"]
    return counts


class Call:
    """A call in a thread of its own."""

    def __init__(self, function, *args, **kwargs):
        self._future = Future()
        self._thread = threading.Thread(
            target=self._run, args=(function, args, kwargs), daemon=True
        )
        self._thread.start()

    def _run(self, function, args, kwargs):
        try:
            self._future.set_result(function(*args, **kwargs))
        except BaseException as error:
            self._future.set_exception(error)

    def result(self):
        """Wait for what the call returned or raised."""
        try:
            return self._future.result(LIMIT_S)
        finally:
            self._thread.join(LIMIT_S)

    def returned(self):
        return self._future.done()

    def wait_until_blocked(self):
        wait_until_asleep(os.getpid(), self._thread.native_id)
        assert not self.returned(), f"should wait, but it is over: {self._future}"
        return self


def blocked(function, *args, **kwargs):
    """Call a function in a thread of its own and wait until it waits."""
    return Call(function, *args, **kwargs).wait_until_blocked()


class Peer:
    """Another process, with a channel to it."""

    channel = None
    pid = None

    def tell(self, message):
        self.channel.send(message)

    def hear(self):
        """Wait for the next thing that the other says."""
        if not self.channel.poll(LIMIT_S):
            raise TimeoutError(f"{self!r} said nothing for {LIMIT_S} s")
        return self.channel.recv()

    def wait_until_blocked(self):
        """Wait until the other has said "ready" and then sleeps."""
        assert self.hear() == "ready"
        wait_until_asleep(self.pid)
        assert not self.channel.poll(0), f"should wait, but says {self.hear()!r}"
        return self

    def signal(self, number):
        os.kill(self.pid, number)

    def finish(self):
        """Wait for the other to end by itself, and well."""
        assert self.exitcode() == 0

    def kill(self):
        """SIGKILL, and wait until the other is no more."""
        raise NotImplementedError

    def exitcode(self):
        raise NotImplementedError

    def clean_up(self):
        self.kill()
        self.channel.close()

    def __repr__(self):
        return f"{type(self).__name__} {self.pid}"


class Child(Peer):
    """A function of `conformance_children`, in a process of a `multiprocessing` context."""

    def __init__(self, context, function, *args):
        self.channel, theirs = context.Pipe()
        self._process = context.Process(
            target=conformance_children.run, args=(theirs, function, args)
        )
        self._process.start()
        theirs.close()
        self.pid = self._process.pid

    def result(self):
        """Wait for what the function returned or raised, and for the end of the process."""
        outcome, value = self.hear()
        self.finish()
        if outcome == "raised":
            raise value
        return value

    def wait_for_result(self):
        """As `result`, of a function that says "ready" first."""
        assert self.hear() == "ready"
        return self.result()

    def exitcode(self):
        self._process.join(LIMIT_S)
        code = self._process.exitcode
        if code is None:
            raise TimeoutError(f"{self!r} has not ended after {LIMIT_S} s")
        return code

    def kill(self):
        self._process.kill()
        self._process.join()  # a timeout would wait for its descendants, too
        return self._process.exitcode

    def clean_up(self):
        super().clean_up()
        self._process.close()


PRELUDE = """
import gc, os, pickle, signal, sys, threading
from multiprocessing.connection import Connection
import qmill
channel = Connection(int(sys.argv[1]))
os.set_inheritable(channel.fileno(), False)
tell, hear = channel.send, channel.recv
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


class Program(Peer):
    """`python -c` with a source that may use `tell(message)`, `hear()` and `qmill`."""

    def __init__(self, source):
        self.channel, theirs = Pipe()
        path = os.pathsep.join([str(Path(__file__).parent), *_entries("PYTHONPATH")])
        self._process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + source, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"PYTHONPATH": path},
        )
        theirs.close()
        self.pid = self._process.pid

    def exitcode(self):
        return self._process.wait(LIMIT_S)

    def kill(self):
        self._process.kill()
        return self.exitcode()


def _entries(variable):
    return [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]


# A program that makes queues for others and keeps them until it is told otherwise.
MAKER = """
made = []
while (order := hear()) != "end":
    if order == "forget":
        made.clear()
    else:
        os.environ["QMILL_TRANSPORT"], arguments = order
        made.append(qmill.Queue(**arguments))
        tell(made[-1])
"""


class Maker:
    """Makes queues in this process or, if there is a program, in that."""

    def __init__(self, place, program=None):
        self._place = place
        self._made = []
        self._program = program

    def __call__(self, maxsize=0):
        arguments = {"maxsize": maxsize, "kind": self._place.kind}
        if self._program is None:
            queue = qmill.Queue(**arguments)
        else:
            self._program.tell((self._place.transport, arguments))
            queue = self._program.hear()
        self._made.append(queue)
        return queue

    def clean_up(self):
        for queue in self._made:
            with suppress(ValueError, qmill.QueueGone):  # it is closed, or its maker has ended
                queue.shutdown(immediate=True)  # whoever a failed test has left waiting
            queue.close()
        if self._program is not None:
            self._program.tell("forget")


ENGINES = ["process", "thread"]


class Gate(NamedTuple):
    """Jobs of `hold` say that they run, and run until they are given a permit: their result."""

    hold: Any
    started: qmill.Queue
    permits: qmill.Queue

    def wait_for_start(self):
        return self.started.get(timeout=LIMIT_S)

    def permit(self, *results):
        self.permits.put_many(results or [None])


def wait_for_end_of(pid):
    """Wait until a process has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], LIMIT_S)[0])
    finally:
        os.close(pidfd)


def output_of(text, how, folder):
    """Run a program that is a file, an argument of `-c`, or on standard input: what it prints."""
    file = folder / "program.py"
    file.write_text(text)
    arguments = {"file": [str(file)], "-c": ["-c", text], "-": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=text if how == "-" else "",
        capture_output=True,
        text=True,
        timeout=50,
    )
    return done.stdout, done.stderr
