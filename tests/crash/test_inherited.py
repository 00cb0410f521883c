"""What multiprocessing can share, as arguments of workers and of initializers, and nowhere else."""

from __future__ import annotations

import copyreg
import ctypes
import errno
import functools
import gc
import multiprocessing
import operator
import os
import re
import resource
import subprocess
import sys
import textwrap
import threading
from multiprocessing import resource_sharer
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

import qmill
from qmill import errors
from qmill.packing import serialize
from qmill.processes import inherited, launch
from qmill.workers import api

from . import things
from .programs import LIMIT_S, ROOT, descriptors
from .things import THINGS

CONTEXTS = ["fork", "spawn", "forkserver", None]
OTHER_METHODS = [method for method in launch.METHODS if method != "fork"]


def settled_descriptors():
    api.forget_ended()
    gc.collect()
    return descriptors()


def is_fork(context):
    return multiprocessing.get_context(context).get_start_method() == "fork"


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", THINGS)
def test_each_context_with_each_start_method(name, context, method):
    thing = THINGS[name]
    there, here = thing.make(multiprocessing.get_context(context))
    start = functools.partial(qmill.Worker, things.use, start_method=method)
    if thing.has_lock and is_fork(context) and method != "fork":
        with pytest.raises(RuntimeError, match=r"fork context.*start_method='fork'") as info:
            start((name,), {"thing": there})
        assert isinstance(info.value, qmill.SerializationError)
        return
    worker = start((name,), {"thing": there})
    assert thing.is_seen(here, worker.result)


@pytest.mark.parametrize("name", THINGS)
def test_as_an_argument_of_an_initializer(name, method):
    thing = THINGS[name]
    there, here = thing.make(multiprocessing.get_context("spawn"))
    with qmill.JobQueue(1, initializer=things.initialize, initargs=(name, there)) as jobs:
        job = jobs.submit(things.use_given)
        assert thing.is_seen(here, job.result)


@pytest.mark.parametrize("name", THINGS)
def test_as_an_argument_of_a_thread(name):
    thing = THINGS[name]
    there, here = thing.make(multiprocessing.get_context("spawn"))
    worker = qmill.run_thread(things.use, name, there)
    assert thing.is_seen(here, worker.result)


def in_a_closure(name, thing):
    return lambda: things.use(name, thing)


WAYS = {
    "partial": lambda name, thing: functools.partial(things.use, name, thing),
    "instance": things.Holder,
    "bound method": lambda name, thing: things.Holder(name, thing).method,
    "slots": things.SlottedHolder,
    "closure": in_a_closure,
    "partial of a closure": lambda name, thing: functools.partial(in_a_closure(name, thing)),
}


@pytest.mark.parametrize("how", ["run", "initializer"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["Lock", "Value", "Pipe", "socket", "Queue"])
def test_inside_something_else(name, way, how, method):
    thing = THINGS[name]
    there, here = thing.make(multiprocessing.get_context("forkserver"))
    call = WAYS[way](name, there)
    if how == "run":
        qmill.run(call).result(LIMIT_S)
    else:
        with qmill.JobQueue(1, initializer=call) as jobs:
            jobs.submit(things.current_key).result(LIMIT_S)
    assert thing.seen(here)


@pytest.mark.parametrize("name", ["Lock", "Event", "Value", "Queue", "Pipe"])
def test_nobody_here_holds_it_any_more(name, method):
    """A named semaphore goes with its object, and would be gone before the worker looks it up."""
    context = multiprocessing.get_context("spawn")
    there, here = THINGS[name].make(context)
    worker = qmill.run(things.use, name, there)
    del there
    if name != "Pipe":  # whose other end is another object
        del here
    gc.collect()
    worker.result(LIMIT_S)


def test_a_worker_hands_it_on_to_its_own_worker(method):
    lock = multiprocessing.get_context("spawn").Lock()
    qmill.run(things.hand_on, "Lock", lock).result(LIMIT_S)
    assert things.is_taken(lock)


def test_one_thing_twice_is_one_thing(method):
    context = multiprocessing.get_context("spawn")
    lock, (there, here) = context.Lock(), context.Pipe()
    assert qmill.run(things.are_same, [lock, there], {"a": lock, "b": there}).result(LIMIT_S)
    here.close()


def test_more_descriptors_than_one_message_takes(method):
    pairs = [multiprocessing.Pipe() for _ in range(260)]
    qmill.run(things.send_all, [there for there, _ in pairs]).result(LIMIT_S)
    assert [here.recv() for _, here in pairs] == list(range(260))


@pytest.mark.parametrize("method", OTHER_METHODS, indirect=True)
def test_more_descriptors_than_this_process_may_have(method):
    ends = [end for _ in range(40) for end in multiprocessing.Pipe()]
    before = settled_descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(end.fileno() for end in ends)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, limits[1]))
    try:
        with pytest.raises(qmill.SerializationError, match="Too many open files"):
            qmill.run(things.send_all, ends)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert settled_descriptors() == before


def test_a_descriptor_that_has_not_come_is_told_as_what_it_is():
    """The kernel keeps back what a process may not have, and says nothing."""
    with pytest.raises(OSError, match="open files") as info:
        inherited._Descriptor(0).detach()
    assert info.value.errno == errno.EMFILE


def test_a_worker_has_the_key_and_the_start_method_of_its_parent(method, run_source):
    """So proxies that travel on queues and with jobs open their manager."""
    output, errors = run_source(
        """
        import multiprocessing
        multiprocessing.set_start_method("forkserver")
        from tests.crash import things
        key = bytes(multiprocessing.current_process().authkey)
        told = qmill.run(things.current_key).result(), things.current_key()
        assert told == (key, key)
        assert qmill.run(things.start_method).result() == "forkserver"
        with multiprocessing.Manager() as manager, qmill.JobQueue(1) as jobs:
            words, queue = manager.list(), qmill.Queue()
            jobs.submit(things.append, words).result()
            queue.put(words)
            qmill.run(things.append_to_what_comes, queue).result()
            print(list(words))
        """
    )
    assert (output, errors) == ("['word', 'word']\n", "")


def test_the_key_is_for_nobody_else_to_read(method):
    """What others may see of a process: its command line and its environment."""
    key = bytes(multiprocessing.current_process().authkey)
    gate = multiprocessing.get_context("spawn").Event()
    worker = qmill.run(things.wait_for, gate)
    for file in ("cmdline", "environ"):
        shown = Path(f"/proc/{worker.pid}/{file}").read_bytes()
        assert key not in shown
        assert key.hex().encode() not in shown
    gate.set()
    worker.result(LIMIT_S)


@pytest.fixture
def sharer():
    """multiprocessing's thread that gives connections to those who have read of them."""
    yield
    resource_sharer.stop(LIMIT_S)


# -- on queues, and as arguments of jobs ----------------------------------------------------------

REFUSED = [name for name, thing in THINGS.items() if thing.has_lock or name.startswith("Raw")]


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_queue_refuses_what_multiprocessing_refuses(name, context):
    thing, _ = THINGS[name].make(multiprocessing.get_context(context))
    holder = things.Holder(name, {"key": [thing]})
    with pytest.raises(RuntimeError) as told:
        ForkingPickler.dumps(thing)
    for put in (qmill.Queue().put, qmill.Q().put):
        with pytest.raises(RuntimeError, match=re.escape(str(told.value))) as info:
            put(holder)
        assert isinstance(info.value, errors.LockSent)
        assert isinstance(info.value, qmill.SerializationError)
        assert re.search(r"thing\['key'\]\[0\], a \S*" + type(thing).__name__, str(info.value))
        assert "initargs" in str(info.value)


@pytest.mark.parametrize("name", ["Lock", "Value", "RawArray", "Queue"])
def test_a_job_refuses_what_multiprocessing_refuses(name, method):
    thing, _ = THINGS[name].make(multiprocessing.get_context("spawn"))
    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(things.nothing).result(LIMIT_S) is None
        for job in (jobs.submit(things.use, name, thing), jobs.put(things.use, [name, [thing]])):
            with pytest.raises(errors.LockSent, match="through inheritance.*initargs"):
                job.result(LIMIT_S)
        with pytest.raises(errors.LockSent, match="through inheritance.*initargs"):
            list(jobs.map(things.use, [name], [thing]))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_cluster_is_told_of_what_it_has_itself(context, monkeypatch):
    monkeypatch.setattr(serialize.destination, "is_remote", True)
    with pytest.raises(errors.LockSent, match="distributed.Lock"):
        serialize.dumps([multiprocessing.get_context(context).Lock()])


def test_a_worker_cannot_return_what_is_only_inherited(method):
    worker = qmill.run(things.make_lock)
    with pytest.raises(errors.LockSent, match="through inheritance"):
        worker.result(LIMIT_S)


def test_an_initializer_with_a_lock_of_another_context_fails_the_job(method):
    lock = multiprocessing.get_context("fork").Lock()
    with qmill.JobQueue(1, initializer=things.initialize, initargs=("Lock", [lock])) as jobs:
        job = jobs.submit(things.nothing)
        if method == "fork":
            assert job.result(LIMIT_S) is None
        else:
            with pytest.raises(RuntimeError, match="fork context.*start_method='fork'"):
                job.result(LIMIT_S)


@pytest.fixture
def nothing_chosen(monkeypatch):
    monkeypatch.delenv("QMILL_START_METHOD", raising=False)


@pytest.mark.parametrize("name", ["Lock", "Value", "Queue"])
def test_a_pool_forks_for_a_lock_that_only_a_fork_can_share(name, nothing_chosen):
    there, here = THINGS[name].make(multiprocessing.get_context("fork"))
    with qmill.JobQueue(1, initializer=things.initialize, initargs=(name, there)) as jobs:
        assert jobs.submit(os.getppid).result(LIMIT_S) == os.getpid()
        jobs.submit(things.use_given).result(LIMIT_S)
    assert THINGS[name].seen(here)


@pytest.mark.parametrize("arguments", [{}, {"initargs": (1,)}, {"start_method": "forkserver"}])
def test_a_pool_forks_for_nothing_else(arguments, nothing_chosen):
    lock = multiprocessing.get_context("fork" if "start_method" in arguments else "spawn").Lock()
    arguments = {"initializer": things.nothing, "initargs": (lock,)} | arguments
    with qmill.JobQueue(1, **arguments) as jobs:
        job = jobs.submit(os.getppid)
        if "start_method" in arguments:
            assert isinstance(job.exception(LIMIT_S), errors.LockSent)
        else:
            assert job.result(LIMIT_S) != os.getpid()


def test_a_worker_is_not_forked_for_a_lock(nothing_chosen):
    """It is said at `run` how it starts, and None is safe with threads."""
    with pytest.raises(errors.LockSent, match="start_method='fork'"):
        qmill.run(things.nothing, multiprocessing.get_context("fork").Lock())


TQDM = """
    import concurrent.futures, multiprocessing
    from tqdm.contrib.concurrent import process_map
    {before}
    concurrent.futures.ProcessPoolExecutor = qmill.JobQueue
    print(process_map(lambda number: number * number, range(5), max_workers=2, disable=True))
"""


def test_process_map_of_tqdm_with_its_executor_swapped(method, run_source):
    before = f"multiprocessing.set_start_method({method!r})"
    assert run_source(TQDM.format(before=before)) == ("[0, 1, 4, 9, 16]\n", "")


def test_process_map_of_tqdm_where_nobody_has_chosen_a_start_method(run_source):
    output, errors = run_source(TQDM.format(before="del os.environ['QMILL_START_METHOD']"))
    assert output == "[0, 1, 4, 9, 16]\n"
    assert errors == "" or "multi-threaded, use of fork()" in errors  # since Python 3.12


@pytest.mark.parametrize("put", ["itself", "in a list", "with what is packed carefully"])
@pytest.mark.parametrize("name", ["Pipe", "socket"])
def test_connections_travel_as_multiprocessing_has_them_travel(name, put, method, sharer):
    """Plain pickle takes a connection for a number, which is another file there."""
    thing = THINGS[name]
    there, here = thing.make(multiprocessing.get_context("spawn"))
    word = {"itself": there, "in a list": [there]}.get(put, [there, lambda: None])
    queue = qmill.Queue()
    queue.put(word)
    worker = qmill.run(things.use_what_comes, name, queue)
    assert thing.is_seen(here, worker.result)


def test_a_connection_as_an_argument_of_a_job(method, sharer):
    there, here = multiprocessing.Pipe()
    with qmill.JobQueue(1) as jobs:
        jobs.submit(things.use, "Pipe", there).result(LIMIT_S)
        jobs.submit(lambda: there.send("word")).result(LIMIT_S)
    assert [here.recv(), here.recv()] == ["word", "word"]


def test_ctypes_objects_that_are_not_shared_travel_as_ever():
    multiprocessing.RawValue("i", 3)  # from then on multiprocessing has a reducer for all of them
    queue = qmill.Queue()
    for obj in (ctypes.c_int(5), [ctypes.c_int(5), lambda: None]):
        queue.put(obj)
        got = queue.get()
        assert (got[0] if isinstance(got, list) else got).value == 5


class Registered:
    def __init__(self, number):
        self.number = number


def test_an_object_with_a_registered_reducer(monkeypatch):
    monkeypatch.setitem(
        copyreg.dispatch_table, Registered, lambda obj: (Registered, (-obj.number,))
    )
    queue = qmill.Queue()
    queue.put(Registered(3))
    assert queue.get().number == -3


# -- nothing is left ------------------------------------------------------------------------------


@pytest.fixture
def run_source(method):
    """Run a program under each start method, all warnings as errors: what it says."""

    def run_source(source, prelude="import os, sys, qmill"):
        environ = {name: text for name, text in os.environ.items() if name[:6] != "PYTHON"}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", f"{prelude}\n{textwrap.dedent(source)}"],
            env=environ | {"PYTHONPATH": str(ROOT), "QMILL_START_METHOD": method},
            capture_output=True,
            encoding="utf-8",
            timeout=5 * LIMIT_S,
            check=False,
        )
        return done.stdout, done.stderr

    return run_source


def test_many_workers_leave_nothing(method, run_source):
    times = 200 if method != "spawn" else 40
    output, errors = run_source(
        f"""
        import multiprocessing, operator
        from multiprocessing.shared_memory import SharedMemory
        from tests.crash import job_functions
        context = multiprocessing.get_context("spawn")
        lock, counter, value = context.Lock(), context.Semaphore(0), context.Value("i", 0)
        memory = SharedMemory(create=True, size=8)
        for _ in range({times // 10}):
            crew = [qmill.run(operator.methodcaller("release"), counter) for _ in range(9)]
            crew.append(qmill.run(job_functions.count, lock, value, memory))
            for worker in crew:
                worker.result()
        print(counter.get_value(), value.value, memory.buf[0])
        print(lock._semlock.name.replace("/", "sem."), memory.name)
        memory.close()
        memory.unlink()
        """
    )
    assert errors == ""
    counts, names = output.splitlines()
    assert counts.split() == [str(number) for number in (times * 9 // 10, times // 10, times // 10)]
    assert not [name for name in names.split() if (Path("/dev/shm") / name).exists()]


def test_memory_outlives_the_workers_that_look_at_it_or_make_it(run_source):
    output, errors = run_source(
        """
        from multiprocessing.shared_memory import SharedMemory
        from tests.crash import job_functions
        made = SharedMemory(qmill.run(job_functions.make_named).result())
        for _ in range(2):
            qmill.run(job_functions.add_to_named, made.name).result()
        with qmill.JobQueue(2, max_jobs_per_worker=1) as jobs:
            list(jobs.map(job_functions.add_to_named, [made.name] * 3))
        again = SharedMemory(made.name)
        print(again.buf[0])
        again.close()
        made.close()
        made.unlink()
        """
    )
    assert (output, errors) == ("5\n", "")


def test_descriptors_stay_as_few(method):
    context = multiprocessing.get_context("spawn")
    lock, (there, here) = context.Lock(), context.Pipe()

    def start_many(times):
        for _ in range(times):
            failing = qmill.run(operator.itemgetter(2), [lock, there])
            assert isinstance(failing.exception(LIMIT_S), IndexError)
            failing.join(LIMIT_S)
            worker = qmill.run(operator.methodcaller("send", "word"), there)
            worker.join(LIMIT_S)
            assert here.recv() == "word"

    start_many(2)
    before = settled_descriptors()
    start_many(10 if method == "spawn" else 100)
    assert settled_descriptors() == before


def test_descriptors_of_what_cannot_be_packed_are_given_back():
    there, here = multiprocessing.Pipe()
    before = settled_descriptors()
    for _ in range(3):
        with pytest.raises(qmill.SerializationError, match=r"\[1\], a _thread.lock"):
            qmill.Worker(things.use, [there, threading.Lock()], start_method="spawn")
    assert settled_descriptors() == before
    here.close()


def test_a_fork_in_the_middle_closes_what_is_for_another():
    """A child that is forked while a worker starts must not keep a pipe open."""
    there, here = multiprocessing.Pipe(duplex=False)
    forker = things.ForkingWhilePickled(here)
    qmill.Worker(things.nothing, [here, forker], start_method="forkserver").result(LIMIT_S)
    assert set(forker.exitcodes) == {0}


# -- deaths ---------------------------------------------------------------------------------------


def test_a_killed_worker_that_holds_nothing_costs_the_others_nothing(method):
    context = multiprocessing.get_context("spawn")
    lock, value, queue, (there, here) = (
        context.Lock(),
        context.Value("i", 0),
        context.SimpleQueue(),
        context.Pipe(),
    )
    for _ in range(3):
        worker = qmill.run(things.tell_and_stay, lock, value, there, queue)
        assert here.recv() == "ready"
        worker.kill()
        with pytest.raises(qmill.WorkerDied):
            worker.result(LIMIT_S)
    assert qmill.run(things.take_turns, lock, value, there, queue).result(LIMIT_S) == 4
    assert here.recv() == "ready"
    assert queue.get() == "word"


def test_a_killed_worker_of_a_pool_is_replaced_by_one_that_has_the_same(method):
    context = multiprocessing.get_context("spawn")
    value = context.Value("i", 1)
    with qmill.JobQueue(1, initializer=things.initialize, initargs=("Value", value)) as jobs:
        with pytest.raises(qmill.WorkerDied):
            jobs.submit(things.kill_oneself).result(LIMIT_S)
        jobs.submit(things.use_given).result(LIMIT_S)
    assert value.value == 2


def test_multiprocessing_is_not_imported_for_nothing(run_source):
    output, errors = run_source(
        """
        def loaded():
            return [name for name in sys.modules if name.startswith("multiprocessing")]

        queue = qmill.Queue()
        queue.put([qmill.run(loaded).result(), loaded()])
        with qmill.JobQueue(1) as jobs:
            print(queue.get(), jobs.submit(loaded).result(), loaded())
        """,
        prelude="import sys, qmill",
    )
    assert (output, errors) == ("[[], []] [] []\n", "")


def test_a_socket_does_without_multiprocessing(run_source):
    output, errors = run_source(
        """
        def send(sock):
            with sock:
                sock.sendall(b"word")
            return "multiprocessing" in sys.modules

        here, there = socket.socketpair()
        print(qmill.run(send, there).result(), here.recv(4), "multiprocessing" in sys.modules)
        here.close()
        there.close()
        """,
        prelude="import socket, sys, qmill",
    )
    assert (output, errors) == ("False b'word' False\n", "")
