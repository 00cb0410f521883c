"""What a worker of a pool is given, how it is called, and how many tasks it does."""

import ctypes
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter

state = {}
here = "of the module"


def keep(*args, **kwargs):
    state["args"] = args


def kept(_=None):
    return state["args"]


def add_one(_):
    lock, total = state["args"]
    with lock:
        before = total.value
        time.sleep(0.001)
        total.value = before + 1


def put_all(number):
    state["args"][0].put(number * 2)
    return number


def put_to(queue, number):
    queue.put(number * 2)


def who(_=None):
    process = multiprocessing.current_process()
    return process.name, process.daemon, process._identity, type(process).__name__


def parent(pid):
    above = multiprocessing.parent_process()
    return above.pid == pid, above.name, above.is_alive()


def children(_=None):
    return multiprocessing.active_children()


def number(_=None):
    return os.getpid()


def start_child(_=None):
    try:
        multiprocessing.Process(target=print).start()
    except AssertionError as error:
        return str(error)


def context_of(_=None):
    return multiprocessing.get_start_method()


def thread_is_main(_=None):
    return threading.current_thread() is threading.main_thread()


def signalled(barrier):
    return barrier.wait()


def method_of(event):
    return event.is_set()


def main(method):
    multiprocessing.set_start_method(method)
    print(multiprocessing.get_start_method())
    with multiprocessing.Pool(1, keep, (1, "two", [3])) as pool:
        print(pool.apply(kept), pool.map(kept, range(2)))
        print(pool.apply(parent, (os.getpid(),)), pool.apply(children), pool.apply(start_child))
        print(pool.apply(context_of), pool.apply(thread_is_main))
        print(pool.apply(who)[1:2], pool.apply(number) != os.getpid())
    lock, total = multiprocessing.Lock(), multiprocessing.Value("i", 0, lock=False)
    with multiprocessing.Pool(2, keep, (lock, total)) as pool:
        pool.map(add_one, range(20), 1)
        print(total.value)
    array = multiprocessing.Array(ctypes.c_double, 3)
    event = multiprocessing.Event()
    event.set()
    barrier, semaphore = multiprocessing.Barrier(2), multiprocessing.BoundedSemaphore(3)
    reader, writer = multiprocessing.Pipe()
    things = (array, event, barrier, semaphore, reader, multiprocessing.RLock())
    with multiprocessing.Pool(2, keep, things) as pool:
        print([type(each).__name__ for each in things])
        print(len(pool.apply(len, ((1, 2),)).__class__.__name__))
    for queue in (multiprocessing.Queue(), multiprocessing.SimpleQueue()):
        with multiprocessing.Pool(2, keep, (queue,)) as pool:
            print(pool.map(put_all, range(5)), sorted(queue.get() for _ in range(5)))
    queue = multiprocessing.JoinableQueue()
    with multiprocessing.Pool(2, keep, (queue,)) as pool:
        pool.map(put_all, range(5))
        for _ in range(5):
            queue.get()
            queue.task_done()
        queue.join()
    with multiprocessing.Manager() as manager, multiprocessing.Pool(2) as pool:
        queue, names = manager.Queue(), manager.dict()
        pool.starmap(put_to, [(queue, each) for each in range(5)])
        print(sorted(queue.get() for _ in range(5)))
        pool.starmap(names.__setitem__, [("a", 1), ("b", 2)])
        print(sorted(names.items()))
        barrier = manager.Barrier(2)
        print(sorted(pool.map(signalled, [barrier, barrier], 1)))
        print(pool.apply(method_of, (manager.Event(),)))
    for limit, chunk in ((1, 1), (2, 3)):
        with multiprocessing.Pool(1, maxtasksperchild=limit) as pool:
            pids = pool.map(number, range(3 * limit * chunk), chunk)
            print(limit, chunk, list(Counter(pids).values()))
    with multiprocessing.Pool(3) as pool:
        print(len(pool._pool), len({each.pid for each in pool._pool}))
        print(all(each.is_alive() and each.daemon for each in pool._pool))
        pids = {each.pid for each in pool._pool}
        print(set(pool.map(number, range(30))) <= pids)
        active = {each.pid for each in multiprocessing.active_children()}
        print("active_children has them:", pids <= active)


if __name__ == "__main__":
    main(sys.argv[1])
