"""Functions of jobs: importable in a worker, and quick to import."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import qmill
from qmill.processes import child_main

from .functions import add, die, fail, tell_and_wait

# -- jobs -----------------------------------------------------------------------------------------


def mark(path, number):
    """Leave a line in a file that all processes append to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, b"%d\n" % number)
    finally:
        os.close(descriptor)
    return number


def mark_and_wait(path, number, told=None, gate=None):
    """Leave a line; if there is a gate, tell that it has begun and wait there."""
    mark(path, number)
    if gate is not None:
        told.put(os.getpid())
        gate.get()
    return number


def mark_and_die(path, number, how):
    mark(path, number)
    die(how)


def die_until(path, number, limit):
    """Die as long as fewer lines than the limit have been left."""
    mark(path, number)
    with open(path) as file:
        if len(file.read().split()) < limit:
            die("SIGKILL")
    return number


def mark_or_die(number, path, deaths, make=int):
    """Leave a line, and return what is made of the number unless this one is to die."""
    mark(path, number)
    if number in deaths:
        die(deaths[number])
    return make(number)


def die_at_first(number, path, where):
    """Leave a line, and die for some numbers when they come for the first time."""
    mark(path, number)
    if number in where:
        with open(path) as file:
            if file.read().split().count(str(number)) == 1:
                die("SIGKILL")
    return number


def tell_pid_and_wait(number, told, gate, where):
    """For one number, tell which process this is, and wait."""
    if number == where:
        told.put(os.getpid())
        gate.get()
    return number


class Plain:
    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return type(other) is Plain and other.number == self.number


def large(number):
    return bytes([number % 256]) * 50_000


def decimal(number):
    from decimal import Decimal

    return Decimal(number)


class Escape(BaseException):
    """An exception that no `except Exception` stops."""


class FrozenError(Exception):
    """An exception that takes no attributes once it is made, as those of frozen dataclasses."""

    def __setattr__(self, name, value):
        raise AttributeError(f"cannot set {name}")


def _raise(error):
    raise error


TROUBLES = {
    "raises": lambda: _raise(ValueError("trouble")),
    "exits": lambda: sys.exit(3),
    "interrupts": lambda: _raise(KeyboardInterrupt("trouble")),
    "escapes": lambda: _raise(Escape("trouble")),
    "dies": lambda: os._exit(3),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def trouble(what):
    """The function by which an object is rebuilt that cannot be."""
    TROUBLES[what]()


def seven(_what=None):
    return 7


class Troubled:
    """Something happens when it is packed, or when it is rebuilt."""

    def __init__(self, when, what):
        self.when = when
        self.what = what

    def __call__(self):
        return "called"

    def __reduce__(self):
        if self.when == "packed":
            TROUBLES[self.what]()
        return (seven if self.what == "is another" else trouble), (self.what,)


class TroubledError(Exception):
    """An exception of that kind."""

    def __init__(self, when, what):
        super().__init__(f"{what} when {when}")
        self.when = when
        self.what = what

    __reduce__ = Troubled.__reduce__


def give(when, what):
    return Troubled(when, what)


def throw(when, what):
    raise TroubledError(when, what)


def fail_with(error):
    raise error


def fail_with_a_lock():
    raise ValueError("with a lock", threading.Lock())


def fail_frozen():
    raise FrozenError("frozen")


def escape():
    raise Escape("escaped")


def recurse(depth=0):
    return recurse(depth + 1)


def nested(depth):
    """Return a list in a list in a list."""
    outer = []
    for _ in range(depth):
        outer = [outer]
    return outer


def fail_deeply(depth):
    raise ValueError(nested(depth))


def a_generator():
    return (number for number in range(3))


def close_descriptors():
    os.closerange(0, 4096)


def close_channel_and_wait():
    os.closerange(3, 4096)
    threading.Event().wait()


def write_everywhere(garbage, times=1):
    """Write into every descriptor that is open, but for the standard ones."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            for _ in range(times):
                try:
                    os.set_blocking(int(name), False)
                    os.write(int(name), garbage)
                except OSError:
                    break
    return "written"


def close_streams():
    sys.stdout.close()
    sys.stderr.close()
    sys.stdout = sys.stderr = None


def exit_at(number, where, code):
    """Exit for one item of a map."""
    if number == where:
        sys.exit(code)
    return number


def size_of(thing):
    return len(thing)


def echo(thing):
    return thing


def limit_memory(size):
    """Let this process have no more than so many bytes beyond what it has."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + size, now + size))


_hoard = []


def hoard(size):
    """Keep so much memory, and tell which process does."""
    _hoard.append(b"x" * size)
    return os.getpid()


def ignore_sigterm_and_wait(told):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told.put(os.getpid())
    threading.Event().wait()


def exit_on_sigterm(told):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    told.put(os.getpid())
    while True:
        signal.pause()


def start_sleepers(told, then="wait", *, stubborn=False, detached=False):
    """Start processes that would sleep for long, tell of them, and come to some end."""
    import subprocess

    def ignore():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    sleepers = [
        subprocess.Popen(
            ["sleep", "600"],
            preexec_fn=ignore if stubborn else None,
            start_new_session=detached,
        )
        for _ in range(2)
    ]
    told.put([os.getpid(), *(sleeper.pid for sleeper in sleepers)])
    if then == "wait":
        threading.Event().wait()
    die(then)


def start_a_nested_queue_and_wait(told):
    """Have a queue in the worker run what starts further processes."""
    with qmill.JobQueue(1) as jobs:
        jobs.submit(start_sleepers, told).result()


def log_everything(name, text):
    """Log at each level, with an exception, and from a thread."""
    logger = logging.getLogger(name)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "%s at %d", text, level)
    try:
        fail(text)
    except ValueError:
        logger.exception("%s with an exception", text)
    thread = threading.Thread(target=logger.error, args=("%s in a thread", text), name="logs")
    thread.start()
    thread.join()
    return os.getpid()


def log_with(extra, text="said"):
    logging.getLogger("odd").error(text, extra=extra())
    return "done"


def an_extra_lock():
    return {"lock": threading.Lock()}


def an_extra_that_cannot_be_rebuilt():
    return {"thing": Troubled("rebuilt", "raises")}


def an_extra_that_exits():
    return {"thing": Troubled("rebuilt", "exits")}


def log_many(name, count, size):
    for _ in range(count):
        logging.getLogger(name).error("said", extra={"load": "x" * size})


def log_in_processes(number, count, size):
    """Log in processes of a job's own while it logs itself; return how they have ended."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    some = [
        context.Process(target=log_many, args=("in a process", count, size)) for _ in range(number)
    ]
    for process in some:
        process.start()
    log_many("here", count, size)
    for process in some:
        process.join()
    return [process.exitcode for process in some]


def log_in_threads_and_processes(number):
    """Start processes that log while threads do; return how many of them hang."""
    import multiprocessing

    over = threading.Event()

    def log():
        while not over.is_set():
            log_many("in a thread", 1, 1000)

    threads = [threading.Thread(target=log) for _ in range(2)]
    for thread in threads:
        thread.start()
    num_stuck = 0
    for _ in range(number):
        process = multiprocessing.get_context("fork").Process(
            target=log_many, args=("in a process", 1, 10)
        )
        process.start()
        process.join(10)
        if process.is_alive():
            num_stuck += 1
            process.kill()
            process.join()
            break
    over.set()
    for thread in threads:
        thread.join()
    return num_stuck


def library_threads(names):
    return {name: os.environ.get(name) for name in names}


def fill_channel(told, gate, size):
    """Say a great deal, which nobody may be reading."""
    told.put(os.getpid())
    gate.get()
    while True:
        logging.getLogger("much").error("x" * size)


def fork_in_a_job(told):
    """Leave a child that lives on with copies of the worker's descriptors."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    told.put([os.getpid(), child])
    return child


def nested_sum(number):
    """Have a queue in the worker run jobs."""
    with qmill.JobQueue(2) as jobs:
        return sum(jobs.map(add, range(number)))


class Held:
    """A result that its reader cannot rebuild before somebody lets it."""

    reading = threading.Event()
    go_on = threading.Event()

    def __reduce__(self):
        return hold, ()


def hold():
    Held.reading.set()
    Held.go_on.wait(30)
    return "let go"


def give_held():
    return Held()


class Laden:
    """Packed together with much, and kills who packs it when that is done."""

    def __init__(self, size):
        self.size = size

    def __reduce__(self):
        return seven, (bytes(self.size), Troubled("packed", "is killed"))


def give_laden(size):
    return Laden(size)


def tell_and_stop(told):
    """Stop, as a debugger does it, and say so before."""
    told.put(os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)


def do_and_tell(told, value):
    told.put(value)
    return value


def of_many_classes(size):
    """Return a function that needs several classes which are in no module, each of some size."""
    module = type(sys)("__main__")
    classes = []
    for number in range(8):
        names = {"__module__": "nowhere", "text": os.urandom(size)}
        classes.append(type(f"Local{number}", (), names))
    del module
    return lambda: len({cls.__name__ for cls in classes})


def start_nested_workers(told):
    """Tell of this process and of those that run jobs for it, and never end."""
    mine = qmill.Queue()
    with qmill.JobQueue(2) as jobs:
        for _ in range(2):
            jobs.submit(tell_and_wait, mine, qmill.Queue())
        told.put([os.getpid(), mine.get(), mine.get()])
        threading.Event().wait()


def die_first(path, num_deaths):
    """Begin a worker: the first ones die, and leave a line each."""
    died = os.path.getsize(path) // 2 if os.path.exists(path) else 0
    if died < num_deaths:
        mark(path, 0)
        die("SIGKILL")


# -- threads that outlive their job ----------------------------------------------------------------


def leave_thread(told, go_on, grace_s=0.01, kind="thread"):
    """Leave a thread, or a process, that waits to go on; after that grace the wait is told."""
    child_main.EXIT_GRACE_S = grace_s
    context = multiprocessing.get_context("fork")
    left = {"thread": threading.Thread, "process": context.Process}[kind]
    left(target=_wait_to_go_on, args=(told, go_on), name="saver").start()
    return os.getpid()


def _wait_to_go_on(told, go_on):
    go_on.get()
    told.put("saved")


def leave_thread_and_log(told, go_on):
    """The same, in a process whose warnings nobody handles."""
    logging.getLogger("qmill").addHandler(_Teller(told))
    return leave_thread(told, go_on)


class _Teller(logging.Handler):
    def __init__(self, told):
        super().__init__()
        self._told = told

    def emit(self, record):
        self._told.put(record.getMessage())


def leave_idle_pool():
    """Leave a pool of threads that are no daemons, and have nothing to do."""
    pool = ThreadPoolExecutor(2)
    return pool.submit(os.getpid).result()


def leave_queue(told, go_on):
    """Leave a queue of jobs that are not done."""
    child_main.EXIT_GRACE_S = 0.01
    left_behind.append(qmill.JobQueue(1))
    left_behind[-1].put(_wait_to_go_on, (told, go_on))


left_behind = []


def leave_exit_function(told):
    """Leave something to do at exit that does not end."""
    atexit.register(told.get)


# -- what multiprocessing shares (more is in things.py, which takes long to import) ---------------


def count(lock, value, memory):
    with lock, value:
        value.value += 1
        memory.buf[0] += 1
    memory.close()


def make_named():
    """Leave shared memory to whoever knows its name."""
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(create=True, size=1)
    memory.close()
    return memory.name


def add_to_named(name):
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(name)
    memory.buf[0] += 1
    memory.close()


def die_at_starts(path, which):
    """Begin a worker: these die, and each leaves a line."""
    mark(path, 0)
    if os.path.getsize(path) // 2 in which:
        die("SIGKILL")
