"""Functions of processes that use a broker, or hide from it."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading

from qmill.queues.portable import portable_queue

from .programs import LIMIT_S, wait_until_asleep


def get_from_pickle(pickled):
    """Wait at a queue that comes as a pickle of somebody else."""
    return pickle.loads(pickled).get()


def take_and_drop(address, number, told, gate):
    """Take a message through a handle that goes at once, and live on."""
    queue = portable_queue.PortableQueue._attach(address, number, None)
    queue.get()
    queue.close()
    del queue
    gc.collect()
    told.put("dropped")
    gate.get()


def read_nested(q):
    """Read with two readers of one process."""
    return [message.data for first in q for message in (first, *q)]


class Interrupted(Exception):
    """The exception that a signal's handler raises."""


def fork_and_be_interrupted(q, told, gate):
    """Be interrupted in `get` while a forked child has a copy of the socket."""
    forked, end = os.pipe()

    def interrupt(*_):
        raise Interrupted

    signal.signal(signal.SIGUSR1, interrupt)

    def fork():
        wait_until_asleep(os.getpid())
        if os.fork() == 0:
            os.close(end)
            os.read(forked, 1)
            os._exit(0)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    thread = threading.Thread(target=fork)
    thread.start()
    try:
        q.get()
    except Interrupted:
        pass
    thread.join()
    told.put("interrupted")
    gate.get()
    os.close(end)
    os.wait()


def churn_and_count_sockets_of_children(q):
    """Fork while threads use a queue; count the sockets that children have beside their anchor."""

    def count():
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return sum(
            os.readlink(link).startswith("socket:") for link in links if os.path.exists(link)
        )

    over = threading.Event()
    q.qsize()
    usual = count() - 1  # one of the two is the anchor's

    def churn():
        while not over.is_set():
            q.put(1)
            q.get()

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    counts = []
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            os._exit(count() - usual)
        counts.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    over.set()
    for thread in threads:
        thread.join()
    return counts


def fork_and_drop(questions, told, goon):
    """Fork, let go of a queue that came with a message, and have the child use it."""
    [queue] = questions.get(timeout=LIMIT_S)
    pid = os.fork()
    if pid == 0:
        assert goon.get(timeout=LIMIT_S)
        queue.put("from the grandchild")
        os._exit(0)
    del queue
    told.put("dropped")
    os.waitpid(pid, 0)
