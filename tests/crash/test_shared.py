"""Queues in shared memory: whoever sleeps, is stopped or is killed, and what memory is left."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading

import numpy
import pytest

import qmill

from . import native
from .programs import LIMIT_S, PRELUDE, ROOT, Call, Program, Watch, wait_until_asleep

rings = pytest.importorskip("qmill.queues.shared.rings", reason="needs queues in shared memory")


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


# -- who sleeps, and who has just been woken ------------------------------------------------------

SLEEPERS = {
    "get": (0, lambda queue: queue.get(), lambda queue: queue.put("there")),
    "peek": (0, lambda queue: queue.peek(), lambda queue: queue.put("there")),
    "put": (1, lambda queue: queue.put("more"), lambda queue: queue.get()),
    "join": (1, lambda queue: queue.join(), lambda queue: [queue.get(), queue.task_done()]),
}


@pytest.fixture
def asleep(workers):
    """Starts processes that sleep in a call."""

    def asleep(call, queue):
        workers.append(qmill.Worker(call, (queue,), start_method="fork"))
        wait_until_asleep(workers[-1].pid)
        return workers[-1]

    return asleep


@pytest.mark.parametrize(("filled", "call", "wake"), SLEEPERS.values(), ids=SLEEPERS)
def test_a_wake_up_that_dies_with_who_was_woken_reaches_the_next(asleep, filled, call, wake):
    for _ in range(5):
        queue = qmill.Queue(maxsize=1)
        queue.put_many(["first"] * filled)
        doomed, other = asleep(call, queue), asleep(call, queue)
        os.kill(doomed.pid, signal.SIGSTOP)  # so that it is woken and does nothing with it
        wake(queue)
        doomed.kill()
        other.result(LIMIT_S)


@pytest.mark.parametrize(("filled", "call", "wake"), SLEEPERS.values(), ids=SLEEPERS)
def test_sleepers_that_were_killed_are_no_burden(asleep, filled, call, wake):
    queue = qmill.Queue(maxsize=1)
    queue.put_many(["first"] * filled)
    crew = [asleep(call, queue) for _ in range(4)]
    for doomed in crew[:3]:
        doomed.kill()
    wake(queue)
    crew[3].result(LIMIT_S)


def test_a_zombie_holds_nothing():
    q = qmill.Q()
    q.put("there")
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        for _ in q:
            os.write(theirs, b"!")
            signal.pause()
    os.read(ours, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert next(iter(q)).data == "there"
    assert q.statistics().redelivered == 1
    os.waitpid(pid, 0)
    os.close(ours)
    os.close(theirs)


EVERYBODY = """
import pickle
from qmill import testing
queue = qmill.Queue()
q = qmill.Q()
queue.put_many([bytes(1_000_000)] * 50)
def read():
    for message in q:
        queue.put(bytes(message.data))
workers = [qmill.run(read) for _ in range(3)]
q.put_many([100_000] * 100)
tell(pickle.dumps(queue).hex())
tell(queue._ring.uuid.hex(), os.getpid(), *(worker.pid for worker in workers))
while True:
    q.put(100_000)
    queue.get()
"""


def test_nothing_is_left_when_everybody_is_killed_at_once(program):
    everybody = program(EVERYBODY)
    pickled = bytes.fromhex(everybody.hear()[0])
    uuid, *pids = everybody.hear()
    queue = pickle.loads(pickled)
    assert queue.get(timeout=LIMIT_S)
    watch = Watch(map(int, pids))
    os.killpg(everybody.pid, signal.SIGKILL)
    assert watch.wait() == []
    assert holders(uuid) == [os.getpid()]
    del queue
    assert holders(uuid) == []
    with pytest.raises(qmill.QueueGone):
        pickle.loads(pickled).qsize()


def holders(uuid):
    """Return the processes that have a queue's file open."""
    found = set()
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(OSError):
                    if uuid in os.readlink(f"/proc/{process}/fd/{name}"):
                        found.add(int(process))
    return sorted(found)


# -- when memory is short -------------------------------------------------------------------------

LIMITED = """
import resource
queue, own = qmill.Queue(), qmill.Queue()
own.put(bytes(1000))
kind, size = {kind!r}, {size}
now = int(open("/proc/self/statm").read().split()[0]) * 4096 if kind == "RLIMIT_AS" else 0
limit = now + 100_000_000
resource.setrlimit(getattr(resource, kind), (limit, resource.RLIM_INFINITY))
item = os.urandom(size)
for _ in range(2):
    number, refused = 0, 0
    while refused < 30:
        try:
            queue.put(item)
            number += 1
        except MemoryError as error:
            refused += 1
            limit_of = {{"RLIMIT_AS": "ulimit -v", "RLIMIT_FSIZE": "ulimit -f"}}[kind]
            assert limit_of in str(error), error
    tell(number * size)
    assert queue.qsize() == number
    left, refused = number, 0
    while left:
        try:
            assert queue.get() == item
            left -= 1
        except MemoryError:  # nothing is lost: there is room again when some has been given back
            refused += 1
            assert refused < 30
            assert queue.qsize() == left
            limit += size
            resource.setrlimit(getattr(resource, kind), (limit, resource.RLIM_INFINITY))
assert own.get() == bytes(1000)
try:
    queue.get_nowait()
except qmill.Empty:
    tell("recovered")
tell(os.fstat(queue._ring.fileno()).st_size)
"""


@pytest.mark.parametrize("size", [10_000, 900_000, 9_000_000])
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_FSIZE"])
def test_a_limit_is_an_error_and_not_the_end(program, kind, size):
    """PAINS 20: a small /dev/shm ends in a bus error."""
    limited = program(LIMITED.format(kind=kind, size=size))
    for _ in range(2):
        (held,) = limited.hear_pids()
        assert held > 30_000_000
    assert limited.hear() == ["recovered"]
    (file_size,) = limited.hear_pids()
    assert file_size < 130_000_000
    limited.finish()
    assert limited.exitcode == 0


def test_a_reader_without_memory_is_told_so_and_loses_nothing(program):
    """PAINS 20: a small /dev/shm ends in a bus error."""
    queue = qmill.Queue()
    item = os.urandom(20_000_000)
    queue.put(item)
    reader = program(
        """
import pickle, resource
queue = pickle.loads(bytes.fromhex(input()))
queue.qsize()
limit = int(open("/proc/self/statm").read().split()[0]) * 4096 + 10_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
try:
    queue.get()
except MemoryError as error:
    tell("MemoryError")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
tell(len(queue.peek()))
"""
    )
    reader.tell(pickle.dumps(queue).hex())
    assert reader.hear() == ["MemoryError"]
    assert reader.hear() == ["20000000"]
    reader.finish()
    assert queue.get_nowait() == item


def test_memory_grows_under_a_fast_timer(program):
    grown = program(
        """
queue = qmill.Queue()
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
items = [os.urandom(1000) * 20_000 for _ in range(3)]
for number in range(12):
    queue.put(items[number % 3])
for number in range(12):
    assert queue.get() == items[number % 3]
signal.setitimer(signal.ITIMER_REAL, 0)
tell(len(ticks) > 10)
"""
    )
    assert grown.hear() == ["True"]
    grown.finish()
    assert grown.exitcode == 0


SMALL_SHM = """
import numpy
queue, back = qmill.Queue(), qmill.Queue()
def send_back():
    for item in queue:
        back.put(item)
worker = qmill.run(send_back)
for number in range(20):
    queue.put(numpy.full(1_000_000, number))
queue.shutdown()
for number in range(20):
    assert (back.get() == number).all()
worker.join()
tell("passed", 20 * 8_000_000)
"""


@pytest.mark.parametrize("how", ["size=1m", "ro"])
def test_a_small_dev_shm_does_not_matter(how):
    """PAINS 20: a small /dev/shm ends in a bus error."""
    mount = f"mount -t tmpfs -o {how} none /dev/shm"
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("needs the right to mount")
    command += [sys.executable, "-c", PRELUDE + SMALL_SHM]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert (done.stdout.split(), done.stderr) == (["passed", "160000000"], "")


# -- forks ----------------------------------------------------------------------------------------


def in_a_fork(function):
    """Call a function in a forked process; return whether it ended well."""
    worker = qmill.Worker(function, start_method="fork")
    return worker.exception(LIMIT_S) is None


def test_a_fork_leaves_its_parents_arrays_alone():
    queue = qmill.Queue()
    queue.put_many([numpy.full(50_000, number) for number in range(4)])
    held = [queue.get() for _ in range(4)]

    def drop_and_use():
        held.clear()
        gc.collect()
        for _ in range(8):
            queue.put(numpy.full(50_000, 9))
            queue.get()

    for _ in range(3):
        assert in_a_fork(drop_and_use)
        queue.put(numpy.full(50_000, 8))
        queue.get()
    assert [set(array) for array in held] == [{0}, {1}, {2}, {3}]


def drops(held):
    held.clear()
    gc.collect()


def writes(held):
    for array in held:
        array += 100


@pytest.mark.parametrize("does", [drops, writes])
def test_a_forked_process_has_its_parents_arrays_as_they_were(workers, does):
    queue, go, said = qmill.Queue(), qmill.Queue(), qmill.Queue()
    queue.put_many([numpy.full(50_000, number) for number in range(4)])
    held = [queue.get() for _ in range(4)]

    def look():
        said.put("ready")
        go.get()
        queue.put_many([numpy.full(50_000, 9) for _ in range(20)])
        assert all((queue.get() == 9).all() for _ in range(20))  # in the same segments
        said.put([set(array.tolist()) for array in held])

    workers.append(qmill.Worker(look, start_method="fork"))
    assert said.get(timeout=LIMIT_S) == "ready"
    does(held)
    queue.put_many([numpy.full(50_000, 8) for _ in range(20)])
    assert all((queue.get() == 8).all() for _ in range(20))
    go.put("on")
    assert said.get(timeout=LIMIT_S) == [{0}, {1}, {2}, {3}]
    workers[0].result()


def test_a_forked_process_that_writes_to_its_parents_arrays_writes_to_its_own():
    queue = qmill.Queue()
    queue.put(numpy.zeros(50_000))
    array = queue.get()

    def write_and_fork():
        array.__iadd__(1)
        assert in_a_fork(lambda: array.__iadd__(1))
        assert set(array) == {1}

    assert in_a_fork(write_and_fork)
    assert set(array) == {0}


FORKS_UNDER_A_TIMER = """
import numpy
queue = qmill.Queue()
queue.put(numpy.zeros(1_000_000))
array = queue.get()
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for number in range(8):
    pid = os.fork()
    if pid == 0:
        os._exit(int((array != number).any()))
    array += 1  # at once
    tell(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_signals_during_a_fork_do_not_show_its_child_what_its_parent_writes_later(program):
    forks = program(FORKS_UNDER_A_TIMER)
    assert [forks.hear() for _ in range(8)] == [["0"]] * 8
    forks.finish()
    assert forks.exitcode == 0


def test_a_forked_process_has_an_array_as_it_was_while_a_thread_writes_to_it():
    queue = qmill.Queue()
    queue.put(numpy.zeros(4_000_000))
    array, copies, stops = queue.get(), iter(range(1, 1 << 60)), threading.Event()

    def write():  # without the GIL
        while not stops.is_set():
            array[:] = next(copies)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:  # a part is of one pass over it, the rest of the pass before
                differences = numpy.count_nonzero(numpy.diff(array))
                before = array.copy()
                os._exit(int(differences > 1 or (before != array).any()))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stops.set()
        thread.join()


def num_mappings():
    with open("/proc/self/maps") as file:
        return len(file.readlines())


def test_many_forks_leave_nothing_mapped_twice():
    queue = qmill.Queue()

    def fork_with_arrays():
        queue.put_many([numpy.full(50_000, number) for number in range(4)])
        held = [queue.get() for _ in range(4)]
        pid = os.fork()
        if pid == 0:
            held.pop()
            gc.collect()
            os._exit(int(any(set(array) != {number} for number, array in enumerate(held))))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert [set(array) for array in held] == [{0}, {1}, {2}, {3}]

    fork_with_arrays()
    before = num_mappings()
    for _ in range(30):
        fork_with_arrays()
    assert num_mappings() <= before + 3


def test_an_array_that_a_forked_process_drops_takes_no_memory_there():
    queue = qmill.Queue()
    queue.put(numpy.zeros(4_000_000))
    array = queue.get()

    def drop():
        nonlocal array
        array += 1
        before = num_pages()
        array = None
        return before - num_pages()

    def num_pages():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1])

    worker = qmill.Worker(drop, start_method="fork")
    assert worker.result(LIMIT_S) > 7_000


# -- batches of what is large ---------------------------------------------------------------------

INTERRUPTED_BATCH = """
import numpy

queue = qmill.Queue(2)
taken = []

def take():
    taken.extend(queue.get() for _ in range(2))
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

thread = threading.Thread(target=take)
thread.start()
try:
    queue.put_many([numpy.full(100_000, number) for number in range(1, 7)])
except KeyboardInterrupt:
    tell("interrupted")
thread.join()
while not queue.empty():
    queue.get()
for number in range(50, 60):
    queue.put(numpy.full(100_000, number))
    queue.get()
tell(*[int(array[0]) for array in taken])
"""


def test_what_was_taken_of_an_interrupted_batch_stays_as_it_is(program):
    """Its memory is its taker's, whatever becomes of the rest."""
    batch = program(INTERRUPTED_BATCH)
    assert batch.hear() == ["interrupted"]
    assert batch.hear() == ["1", "2"]
    batch.finish()
    assert batch.exitcode == 0


# -- garbage --------------------------------------------------------------------------------------


def test_a_large_buffer_in_a_cycle_is_collected(audit):
    queue = qmill.Queue()
    for _ in range(20):
        queue.put([pickle.PickleBuffer(bytearray(100_000))])
        got = queue.get()
        got.append(got)
    del got
    gc.collect()
    queue._settle()
    audit(queue)
