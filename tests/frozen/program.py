"""A program that is frozen, and run with SUPPORT and COUNTS in its environment."""

import json
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor

import qmill


class Point:
    def __init__(self, x):
        self.x = x


def double(x):
    return x * 2


def move(point):
    return Point(point.x + 1)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def take(transport):
    return qmill.Queue(name=f"frozen {transport}").get()


def work():
    told = {"method": qmill.get_start_method(), "core": qmill.core_info().core}
    told["memfd"] = hasattr(os, "memfd_create")
    with qmill.JobQueue(2) as jobs:
        told["jobs"] = [job.result(20) for job in [jobs.submit(double, i) for i in range(3)]]
        told["point"] = jobs.submit(move, Point(1)).result(20).x
        told["argv"] = jobs.submit(eval, "sys.argv[2:]", {"sys": sys}).result(20)
        told["death"] = type(jobs.submit(die).exception(20)).__name__
    told["map"] = list(qmill.map(double, range(3)))
    told["run"] = qmill.run(lambda: qmill.run(double, 2).result(20)).result(20)
    for transport in ("shared", "portable") if told["core"] else ("portable",):
        os.environ["QMILL_TRANSPORT"] = transport
        queue = qmill.Queue(name=f"frozen {transport}")
        queue.put(transport)
        told[transport] = qmill.run(take, transport).result(20)
    for method in ("spawn", "forkserver"):
        try:
            told[method] = qmill.Worker(double, (1,), start_method=method).result(20)
        except qmill.NotSupported as error:
            told[method] = "qmill.freeze_support()" in str(error)
    if (
        os.environ["SUPPORT"] != "none"
    ):  # multiprocessing's own processes look names up in the script
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            told["executor"] = list(executor.map(double, range(3)))
    print(json.dumps(told))


def hold():
    """Have workers that only a signal ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["QMILL_TRANSPORT"] = "portable"
    queue = qmill.Queue(name="frozen")

    def tell():
        queue.put(os.getpid())
        signal.pause()

    workers = [qmill.run(tell) for _ in range(2)]
    print(os.getpid(), *[queue.get() for _ in workers], flush=True)
    workers[0].join()


def keep():
    """Have a persistent queue open, take what is in it, and put what is read."""
    os.environ["QMILL_TRANSPORT"] = "portable"
    queue = qmill.Queue(name="frozen and kept", persistent=True)
    print(queue.get_many(10) if queue.qsize() else [], flush=True)
    for line in sys.stdin:
        queue.put(line.strip())
        print(queue.qsize(), flush=True)


if __name__ == "__main__":
    {
        "qmill": qmill.freeze_support,
        "multiprocessing": multiprocessing.freeze_support,
        "none": lambda: None,
    }[os.environ["SUPPORT"]]()
    with open(os.environ["COUNTS"], "a") as counts:
        counts.write("\n")
        if counts.tell() > 20:
            os._exit(99)
    {"work": work, "hold": hold, "keep": keep}[sys.argv[1]]()
