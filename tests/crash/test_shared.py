"""Queues in shared memory: whoever sleeps, is stopped or is killed, and what memory is left."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import signal
import subprocess

import pytest

import qmill

from . import native
from .programs import Call, Program, wait_until_asleep

pytestmark = pytest.mark.skipif(
    not qmill.core_info()["core"], reason="needs queues in shared memory"
)


@pytest.fixture(autouse=True)
def _in_shared_memory(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")


@pytest.fixture
def program():
    """Starts one program."""
    programs = []

    def start(source):
        programs.append(Program(source, "forkserver"))
        return programs[-1]

    yield start
    for started in programs:
        started.clean_up()


# -- a process that is stopped while it holds a lock ----------------------------------------------


@pytest.fixture(scope="module")
def hold_program(tmp_path_factory):
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    return native.build("hold", tmp_path_factory.mktemp("native"))


@pytest.fixture
def hold(hold_program):
    """Stops a process that holds one of a queue's locks."""
    with contextlib.ExitStack() as stack:

        def hold(queue, lock):
            process = subprocess.Popen([hold_program, native.file_of(queue), lock])
            stack.callback(process.wait)
            stack.callback(process.kill)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT | os.WEXITED)
            assert process.poll() is None
            return process

        yield hold


def goes_on(process):
    process.send_signal(signal.SIGCONT)
    assert process.wait(30) == 0


def is_killed(process):
    process.kill()
    process.wait()


LARGE = bytes(100_000)

HELD_UP = {
    "put": ("put", qmill.Full, lambda q, **wait: q.put(1, **wait)),
    "several": ("put", qmill.Full, lambda q, **wait: q.put(LARGE, **wait)),
    "a large put": ("allocate", qmill.Full, lambda q, **wait: q.put(LARGE, **wait)),
    "large ones": ("allocate", qmill.Full, lambda q, **wait: q.put_many([LARGE], **wait)),
    "get": ("get", qmill.Empty, lambda q, **wait: q.get(**wait)),
    "get_many": ("get", qmill.Empty, lambda q, **wait: q.get_many(5, **wait)),
    "peek": ("get", qmill.Empty, lambda q, **wait: q.peek(**wait)),
}


@pytest.mark.parametrize(
    ("wait", "ends"),
    [({"timeout": 0.2}, goes_on), ({"timeout": 0}, is_killed), ({"block": False}, goes_on)],
    ids=["timeout", "no time", "no block"],
)
@pytest.mark.parametrize(("lock", "error", "call"), HELD_UP.values(), ids=HELD_UP)
def test_a_stopped_process_is_named_when_time_is_up(hold, lock, error, call, wait, ends):
    queue = qmill.Queue()
    queue.put("there")
    stopped = hold(queue, lock)
    with pytest.raises(error, match=rf"process {stopped.pid} \(hold\) .* stopped"):
        call(queue, **wait)
    ends(stopped)
    call(queue, **wait)


@pytest.mark.parametrize(("lock", "error", "call"), HELD_UP.values(), ids=HELD_UP)
def test_a_call_goes_on_when_the_stopped_process_is_killed(hold, lock, error, call):
    queue = qmill.Queue()
    queue.put("there")
    stopped = hold(queue, lock)
    waiting = Call(call, queue).wait_until_blocked()
    is_killed(stopped)
    waiting.result()


def test_the_other_side_does_not_wait_for_a_stopped_process(hold):
    queue = qmill.Queue()
    queue.put("there")
    goes_on_later = hold(queue, "put")
    assert queue.get(timeout=1) == "there"
    goes_on(goes_on_later)
    assert queue.get(timeout=1) is None
    queue.put("more")
    goes_on_later = hold(queue, "get")
    queue.put("most", timeout=1)
    goes_on(goes_on_later)
    assert queue.get_many(5) == ["more", "most"]


def test_a_stopped_process_is_logged_when_there_is_no_limit(hold, caplog):
    queue = qmill.Queue()
    stopped = hold(queue, "put")
    told = qmill.Queue()

    class Tell(logging.Handler):
        def emit(self, record):
            told.put(record.getMessage())

    handler = Tell()
    logging.getLogger("qmill").addHandler(handler)
    try:
        waiting = Call(queue.put, 1)
        assert f"process {stopped.pid} (hold)" in told.get(timeout=30)
    finally:
        logging.getLogger("qmill").removeHandler(handler)
    goes_on(stopped)
    waiting.result()


INTERRUPTED = """
import pickle
queue, call = pickle.loads(bytes.fromhex(input())), input()
def read():
    for message in qmill.Q._from_queue(queue):
        tell("reading")
        input()
calls = {
    "put": lambda: queue.put(1),
    "a large put": lambda: queue.put(bytes(100_000)),
    "get": lambda: queue.get(),
    "peek": lambda: queue.peek(),
    "qsize": lambda: queue.qsize(),
    "task_done": lambda: queue.task_done(),
    "shutdown": lambda: queue.shutdown(),
    "iteration": read,
}
queue.qsize()
if call != "iteration":
    tell("ready")
    input()
try:
    tell("calls")
    calls[call]()
except KeyboardInterrupt:
    tell("interrupted")
"""


@pytest.mark.parametrize(
    ("lock", "call"),
    [
        ("put", "put"),
        ("allocate", "a large put"),
        ("get", "get"),
        ("get", "peek"),
        ("get", "qsize"),
        ("get", "task_done"),
        ("get", "shutdown"),
        ("get", "iteration"),
    ],
)
def test_ctrl_c_and_exit_do_not_wait_for_a_stopped_process(program, hold, lock, call):
    queue = qmill.Queue()
    queue.put(("there", "", 0))
    queue.put(("more", "", 0))
    user = program(INTERRUPTED)
    user.tell(pickle.dumps(queue).hex())
    user.tell(call)
    if call == "iteration":
        assert user.hear() == ["calls"]
        assert user.hear() == ["reading"]
    else:
        assert user.hear() == ["ready"]
    stopped = hold(queue, lock)
    user.tell()
    if call != "iteration":
        assert user.hear() == ["calls"]
    wait_until_asleep(user.pid)
    user.interrupt_group()
    assert user.hear() == ["interrupted"]
    user.finish()
    assert user.exitcode == 0
    goes_on(stopped)
