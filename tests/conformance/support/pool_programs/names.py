"""The names of multiprocessing and of its submodules, its contexts, managers and logs."""

import importlib
import io
import logging
import multiprocessing
import pickle
import queue as plain_queue
import sys
from multiprocessing import Manager, Pipe, Pool, Process, Queue, cpu_count, get_context
from multiprocessing.connection import Client, Listener
from multiprocessing.dummy import Pool as DummyPool
from multiprocessing.managers import BaseManager, SyncManager
from multiprocessing.pool import AsyncResult, Pool as PoolClass, ThreadPool
from multiprocessing.queues import Empty, Full
from multiprocessing.shared_memory import ShareableList, SharedMemory
from multiprocessing.sharedctypes import RawArray
from multiprocessing.synchronize import Event

standard = sys.modules["multiprocessing"]

SUBMODULES = [
    "connection",
    "context",
    "dummy",
    "heap",
    "managers",
    "pool",
    "popen_fork",
    "popen_forkserver",
    "popen_spawn_posix",
    "process",
    "queues",
    "reduction",
    "resource_sharer",
    "resource_tracker",
    "shared_memory",
    "sharedctypes",
    "spawn",
    "synchronize",
    "util",
    "forkserver",
    "dummy.connection",
]


class Counter:
    def __init__(self, start=0):
        self.number = start

    def add(self, by):
        self.number += by
        return self.number


class Own(BaseManager):
    pass


shared_queue = plain_queue.Queue()
Own.register("Counter", Counter)
Own.register("queue", callable=lambda: shared_queue)


def square(number):
    return number * number


def has(lock):
    with lock:
        return 1


def take(lock, queue):
    with lock:
        queue.put("taken")


def main(method):
    context = multiprocessing.get_context(method)
    space = {}
    exec("from multiprocessing import *", space)
    print(sorted(name for name in space if not name.startswith("__")))
    print([name for name in standard.__all__ if not hasattr(multiprocessing, name)])
    for name in SUBMODULES:
        module = importlib.import_module(f"{multiprocessing.__name__}.{name}")
        found = multiprocessing
        for part in name.split("."):
            found = getattr(found, part)
        print(
            name,
            found is module,
            [each for each in ("Pool", "Queue", "Process") if hasattr(module, each)],
        )
    try:
        importlib.import_module(f"{multiprocessing.__name__}.nothing")
    except ImportError as error:
        print(type(error).__name__)
    try:
        multiprocessing.nothing
    except AttributeError:
        print("no such name")
    for each in multiprocessing.get_all_start_methods():
        one = multiprocessing.get_context(each)
        print(
            each,
            type(one).__name__,
            one.get_start_method(),
            one.Process.__name__,
            one is get_context(each),
        )
        print(
            isinstance(one, standard.context.BaseContext),
            pickle.loads(pickle.dumps(one)) is not None,
        )
        print(one.cpu_count() == cpu_count(), one.get_context() is one)
        lock, queue = one.Lock(), one.Queue()
        process = one.Process(target=take, args=(lock, queue))
        process.start()
        print(queue.get())
        process.join()
        print(isinstance(process, multiprocessing.process.BaseProcess))
        print(isinstance(queue, multiprocessing.queues.Queue))
    try:
        multiprocessing.get_context("nothing")
    except ValueError as error:
        print(error)
    print(issubclass(multiprocessing.TimeoutError, multiprocessing.ProcessError))
    print(multiprocessing.freeze_support())
    stream = io.StringIO()
    logger = multiprocessing.get_logger()
    logger.addHandler(logging.StreamHandler(stream))
    logger.setLevel(logging.INFO)
    logger.info("in the log")
    print("in the log" in stream.getvalue(), multiprocessing.log_to_stderr() is logger)
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    with context.Manager() as manager:
        pool = manager.Pool(2)
        print(pool.map(square, [1, 2, 3]), pool.apply(square, (4,)))
        print(isinstance(manager, SyncManager))
    if method == "fork":
        with Own(ctx=context) as own:
            counter = own.Counter(5)
            print(counter.add(2), counter.add(3))
            own.queue().put("through a manager")
            print(own.queue().get())
    memory = SharedMemory(create=True, size=8)
    memory.buf[0] = 7
    other = SharedMemory(memory.name)
    print(other.buf[0])
    other.close()
    memory.close()
    memory.unlink()
    with DummyPool(2) as pool:
        print(pool.map(square, range(4)))
    with context.Pool(1) as pool:
        print(isinstance(pool, PoolClass), isinstance(pool.apply_async(square, (2,)), AsyncResult))
    with ThreadPool(1) as pool:
        print(isinstance(pool, PoolClass), isinstance(pool, ThreadPool))
    print(multiprocessing.current_process().name, multiprocessing.parent_process())
    print(multiprocessing.active_children())
    multiprocessing.set_start_method(method, force=True)
    print(multiprocessing.get_start_method(), get_context().Process is context.Process)
    try:
        multiprocessing.set_start_method(method)
    except RuntimeError as error:
        print(error)
    multiprocessing.set_start_method(None, force=True)
    print(multiprocessing.get_start_method(allow_none=True))
    queue = Queue()
    try:
        queue.get_nowait()
    except Empty:
        print("empty")


if __name__ == "__main__":
    main(sys.argv[1])
