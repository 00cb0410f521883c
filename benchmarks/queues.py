"""Queues, against those of the standard library and others, in one run.

    python -m benchmarks.queues                            all tables
    python -m benchmarks.queues --only Q1 Q5 --repeat 5    some
    python -m benchmarks.queues --peers qmill faster       qmill, faster-fifo and the baselines

Each measurement is a fresh process that makes a queue and forks those who use it. The time is from
the first put to the last get, and every message that is received is checked. What is put must reach
a reader that waits without anything else being put; of the peers only quick-queue is not so.
"""

from __future__ import annotations

import copy
import os
import signal
import time
from ast import literal_eval

MEBI = 1 << 20
IDLE_S = 5.0


# -- the peers: `open` makes a queue, `putter` and `getter` run where it is used ------------------


class Mp:
    code = "import multiprocessing; multiprocessing.Queue()"
    batches = None  # how `put_many` and `get_many` are called

    def __init__(self, maxsize=0):
        self.maxsize = maxsize

    def open(self, largest=0, consumers=1):
        """Make the queue, for messages of up to so many bytes (0: small)."""
        import multiprocessing

        self.queue = multiprocessing.Queue(self.maxsize)

    def putter(self):
        return self.queue.put

    def getter(self, number=0):
        """Become the consumer of a number; return what takes an item."""
        return self.queue.get

    def flush(self):
        """Send what `put` has kept back."""

    @staticmethod
    def receive(get, count, weigh):
        """Take so many items; return the sum of what they weigh."""
        total = 0
        if weigh is None:
            for _ in range(count):
                total += get()
        else:
            for _ in range(count):
                total += weigh(get())
        return total


class MpSimple(Mp):
    def open(self, largest=0, consumers=1):
        import multiprocessing

        self.queue = multiprocessing.SimpleQueue()


class MpManager(Mp):
    def open(self, largest=0, consumers=1):
        import multiprocessing

        self.manager = multiprocessing.Manager()
        self.queue = self.manager.Queue(self.maxsize)


class FasterFifo(Mp):
    batches = "put_many", "get_many"

    def open(self, largest=0, consumers=1):
        import faster_fifo

        self.queue = faster_fifo.Queue(max_size_bytes=max(1_000_000, 4 * largest))


class QuickQueue(Mp):
    """Its `put` fills a bucket, and only a full one is sent."""

    def open(self, largest=0, consumers=1):
        import quick_queue

        self.queue = quick_queue.QQueue(maxsize=self.maxsize or 1000)

    def flush(self):
        self.queue.put_remain()


class Zmq(Mp):
    """A socket for each consumer, to which every producer connects."""

    def open(self, largest=0, consumers=1):
        import tempfile

        import zmq

        self.zmq, self.copies, self.consumers = zmq, not largest, consumers
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")

    def socket(self, kind):
        socket = self.zmq.Context().socket(kind)
        socket.set_hwm(0)
        return socket

    def putter(self):
        from pickle import dumps

        socket = self.socket(self.zmq.PUSH)
        for number in range(self.consumers):
            socket.connect(f"ipc://{self.folder.name}/{number}")
        time.sleep(0.2)  # until they are connected
        send, copies = socket.send, self.copies
        return lambda item: send(dumps(item, 5), 0, copies)

    def getter(self, number=0):
        from pickle import loads

        socket = self.socket(self.zmq.PULL)
        socket.bind(f"ipc://{self.folder.name}/{number}")
        receive = socket.recv
        if self.copies:
            return lambda: loads(receive())
        return lambda: loads(receive(copy=False).buffer)


class Qmill(Mp):
    code = "import qmill; qmill.Queue()"
    batches = "put_many", "get_many"

    def __init__(self, maxsize=0, transport="shared"):
        import qmill

        if transport == "shared" and not qmill.core_info().core:
            raise ModuleNotFoundError("no native core", name="qmill.queues.shared.core._ring")
        super().__init__(maxsize)
        self.transport = transport

    def open(self, largest=0, consumers=1):
        import qmill

        os.environ["QMILL_TRANSPORT"] = self.transport
        self.queue = qmill.Queue(self.maxsize)


class QmillQ(Qmill):
    def open(self, largest=0, consumers=1):
        import qmill

        os.environ["QMILL_TRANSPORT"] = self.transport
        self.queue = qmill.Q()

    def getter(self, number=0):
        return iter(self.queue)

    @staticmethod
    def receive(messages, count, weigh):
        total = 0
        for number, message in enumerate(messages, 1):
            total += message.data if weigh is None else weigh(message.data)
            if number == count:
                break
        return total


class EzqQ(QmillQ):
    def open(self, largest=0, consumers=1):
        import ezq

        self.queue = ezq.Q()


class ThreadQueue(Mp):
    def open(self, largest=0, consumers=1):
        import queue

        self.queue = queue.Queue()


class QmillThread(Mp):
    def open(self, largest=0, consumers=1):
        import qmill

        self.queue = qmill.Queue(kind="thread")


PEERS = {
    "multiprocessing.Queue": Mp,
    "multiprocessing.Queue(1000)": lambda: Mp(1000),
    "multiprocessing.SimpleQueue": MpSimple,
    "Manager().Queue": MpManager,
    "qmill.Queue": Qmill,
    "qmill.Queue(1000)": lambda: Qmill(1000),
    "qmill.Queue(10)": lambda: Qmill(10),
    "qmill.Queue, portable": lambda: Qmill(transport="portable"),
    "qmill.Q": QmillQ,
    "faster-fifo": FasterFifo,
    "quick-queue, in buckets": QuickQueue,
    "pyzmq": Zmq,
    "ezq.Q": EzqQ,
    "queue.Queue": ThreadQueue,
    "qmill.Queue(kind='thread')": QmillThread,
}

# Of the number of messages, which is one for the fastest.
SLOW = {
    "multiprocessing.Queue": 0.1,
    "multiprocessing.Queue(1000)": 0.1,
    "multiprocessing.SimpleQueue": 0.1,
    "Manager().Queue": 0.01,
    "qmill.Queue, portable": 0.01,
    "faster-fifo": 0.1,
    "pyzmq": 0.3,
    "ezq.Q": 0.01,
}


def section():
    from benchmarks import harness
    from benchmarks.harness import Workload

    streams = [
        "multiprocessing.Queue",
        "multiprocessing.SimpleQueue",
        "qmill.Queue",
        "faster-fifo",
        "quick-queue, in buckets",
        "pyzmq",
    ]
    bounded = ["multiprocessing.Queue(1000)", "qmill.Queue(1000)", "qmill.Queue(10)"]
    shared = [peer for peer in streams if not peer.startswith("quick")]
    two = ["multiprocessing.Queue", "qmill.Queue"]
    message = ["qmill.Queue", "qmill.Q", "ezq.Q"]
    slower = {"multiprocessing.Queue": 0.3, "ezq.Q": 0.03}
    broker = ["Manager().Queue", "qmill.Queue, portable"]
    every = [*streams, *bounded, *broker]
    workloads = [
        Workload("Q1", "1 to 1, ints, messages/s", "ints", every, 2_000_000, slow=SLOW),
        Workload("Q1 pinned", "Q1 on one processor", "ints_pinned", every, 1_000_000, slow=SLOW),
        Workload(
            "Q2", "1 to 1, dicts of 120 bytes, messages/s", "dicts", every, 500_000, slow=SLOW
        ),
        Workload(
            "Q3",
            "4 to 4, ints, messages/s",
            "ints_4_to_4",
            [*shared, *bounded[:2]],
            2_000_000,
            slow=SLOW,
        ),
        Workload("Q4", "1 to 1, bytes of 1 MiB, GB/s", "mebibytes", streams, 1_000),
        Workload("Q4b", "1 to 1, numpy arrays of 80 MB, GB/s", "arrays", shared, 20),
        Workload(
            "Q4c", "1 to 1, bytes of 10 kB, messages/s", "kilobytes", streams, 200_000, slow=slower
        ),
        Workload(
            "Q5",
            "there and back, round trips/s at the pace of the median one",
            "ping_pong",
            [*streams, *broker],
            20_000,
            slow=SLOW | {"multiprocessing.Queue": 0.3, "quick-queue, in buckets": 0.3},
        ),
        Workload(
            "Q6",
            "1 to 1, ints in batches of 100, messages/s; the first one by one",
            "batches",
            ["multiprocessing.Queue", "qmill.Queue", "faster-fifo"],
            5_000_000,
            slow=SLOW | {"multiprocessing.Queue": 0.04},
        ),
        Workload(
            "Q7",
            "1 to 1, instances of a module's dataclass, messages/s",
            "instances",
            two,
            200_000,
            slow=slower,
        ),
        Workload(
            "Q7 main",
            "Q7 with a class of the running script",
            "instances_of_main",
            two,
            200_000,
            slow=slower,
        ),
        Workload(
            "Q8",
            "a message of ints, us, lower is better",
            "message_of_int",
            message,
            1_000_000,
            slow=slower,
        ),
        Workload(
            "Q8 dicts",
            "a message of dicts, us, lower is better",
            "message_of_dict",
            message,
            300_000,
            slow=slower,
        ),
        Workload(
            "threads",
            "ints between threads, messages/s",
            "between_threads",
            ["queue.Queue", "qmill.Queue(kind='thread')"],
            50_000,
        ),
        Workload(
            "queue start",
            "import and first queue, ms beyond a bare start of Python, lower is better",
            "start",
            two,
            10,
        ),
        Workload(
            "queue idle",
            f"processor time of a reader that waits for {IDLE_S:g} s, %, lower is better",
            "idle",
            two,
            1_000,
            has_ratio=False,
        ),
    ]
    return harness.section("benchmarks.queues", workloads)


# -- what runs in the fresh process ------------------------------------------------------------


def race(*sides):
    """Fork a process for each side, and have all begin at once.

    A side prepares itself and returns a function, whose result comes back here. The processes stay
    until the harness kills them: what a queue still sends in the background is sent.
    """
    go, let_go = os.pipe()
    told, tell = os.pipe()
    lines = os.fdopen(told)
    for number, side in enumerate(sides):
        if os.fork():
            if (line := lines.readline()) != "ready\n":
                raise RuntimeError(line)
            continue
        os.close(let_go)
        try:
            begin = side()
            os.write(tell, b"ready\n")
            os.read(go, 1)  # ends when its other end is closed
            answer = number, begin()
        except BaseException as error:
            answer = None, f"{type(error).__name__}: {error}"
        os.write(tell, repr(answer).encode() + b"\n")
        signal.pause()
    os.close(let_go)
    answers = dict(literal_eval(lines.readline()) for _ in sides)
    if None in answers:
        raise RuntimeError(answers[None])
    return [answers[number] for number in range(len(sides))]


def stream(peer, count, item=None, weigh=None, pairs=1, largest=0):
    """Return how many items a second go from some producers to as many consumers.

    `item` makes an item of a number, and `weigh` gives the number of an item; without them the
    numbers themselves travel.
    """
    peer.open(largest, pairs)
    count //= pairs

    def produce():
        put = peer.putter()
        items = range(count) if item is None else map(item, range(count))

        def begin():
            started = time.perf_counter()
            for one in items:
                put(one)
            peer.flush()
            return started

        return begin

    def consumer(number):
        def consume():
            get = peer.getter(number)
            return lambda: (peer.receive(get, count, weigh), time.perf_counter())

        return consume

    done = race(*map(consumer, range(pairs)), *[produce] * pairs)
    check(sum(total for total, _ in done[:pairs]), pairs * count * (count - 1) // 2)
    return pairs * count / (max(ended for _, ended in done[:pairs]) - min(done[pairs:]))


def check(found, expected):
    if found != expected:
        raise RuntimeError(f"the sum of what was received is {found} and not {expected}")


def ints(peer, count):
    return {"value": stream(peer, count)}


def ints_pinned(peer, count):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return ints(peer, count)


def ints_4_to_4(peer, count):
    return {"value": stream(peer, count, pairs=4)}


def a_dict(number):
    return {"id": number, "name": "abc" * 20, "values": [1, 2, 3]}


def dicts(peer, count):
    return {"value": stream(peer, count, a_dict, lambda item: item["id"])}


def numbered_bytes(size):
    """Return how to make bytes of a size of a number, and the way back."""
    rest = os.urandom(size - 4)
    return (
        lambda number: b"%b%b" % (number.to_bytes(4, "little"), rest),
        lambda data: int.from_bytes(data[:4], "little") + len(data) - size,
    )


def mebibytes(peer, count):
    # A few, so that what is measured is the queue, and not how fast a gigabyte is read.
    blobs = [numbered_bytes(MEBI)[0](number) for number in range(8)]
    numbers = iter(range(count))

    def weigh(data):
        number = next(numbers)
        return number if (data[0], len(data)) == (number % 8, MEBI) else 0

    rate = stream(peer, count, lambda number: blobs[number % 8], weigh, largest=MEBI + 64)
    return {"value": rate * MEBI / 1e9}


def kilobytes(peer, count):
    item, weigh = numbered_bytes(10_000)
    return {"value": stream(peer, count, item, weigh)}


def arrays(peer, count):
    import numpy

    array = numpy.arange(10_000_000, dtype=float)
    numbers = iter(range(count))
    rate = stream(
        peer,
        count,
        lambda number: array[:],  # another object each time: a pickler may know the last one
        lambda found: next(numbers) + int(found[-1]) + 1 - len(found),
        largest=array.nbytes + 4096,
    )
    return {"value": rate * array.nbytes / 1e9}


def ping_pong(there, count):
    back = copy.copy(there)
    there.open()
    back.open()
    warm = count // 20

    def ping():
        put, get, flush, times = there.putter(), back.getter(), there.flush, []
        clock = time.perf_counter

        def begin():
            for number in range(count + warm):
                started = clock()
                put(number)
                flush()
                found = get()
                times.append(clock() - started)
                check(found, number)
            ordered = sorted(times[warm:])
            return ordered[count // 2], ordered[count * 99 // 100]

        return begin

    def pong():
        put, get, flush = back.putter(), there.getter(), back.flush

        def begin():
            for _ in range(count + warm):
                put(get())
                flush()

        return begin

    (median, late), _ = race(ping, pong)
    return {"value": 1 / median, "median us": median * 1e6, "p99 us": late * 1e6}


def batches(peer, count, batch=100):
    if peer.batches is None:
        return ints(peer, count)
    peer.open()
    put_many, get_many = (getattr(peer.queue, name) for name in peer.batches)
    count -= count % batch

    def put():
        started = time.perf_counter()
        for first in range(0, count, batch):
            put_many(range(first, first + batch))
        return started

    def get():
        number = total = 0
        while number < count:
            found = get_many(10 * batch)
            number += len(found)
            total += sum(found)
        return time.perf_counter(), total

    (ended, total), started = race(lambda: get, lambda: put)
    check(total, count * (count - 1) // 2)
    return {"value": count / (ended - started)}


def instances(peer, count):
    from benchmarks.points import Point

    return {"value": stream(peer, count, Point, lambda found: found.x)}


def instances_of_main(peer, count):
    import sys
    from pathlib import Path

    main = vars(sys.modules["__main__"])
    exec(Path(__file__).with_name("points.py").read_text(), main)
    return {"value": stream(peer, count, main["Point"], lambda found: found.x)}


def message_of_int(peer, count):
    return {"value": 1e6 / stream(peer, count)}


def message_of_dict(peer, count):
    return {"value": 1e6 / stream(peer, count, a_dict, lambda item: item["id"])}


def between_threads(peer, count):
    import threading

    peer.open()
    put = peer.putter()
    producer = threading.Thread(target=lambda: [put(number) for number in range(count)])
    started = time.perf_counter()
    producer.start()
    total = peer.receive(peer.getter(), count, None)
    taken = time.perf_counter() - started
    producer.join()
    check(total, count * (count - 1) // 2)
    return {"value": count / taken}


def start(peer, count):
    import subprocess
    import sys

    if isinstance(peer, Qmill):
        os.environ["QMILL_TRANSPORT"] = peer.transport

    def least_s(code):
        times = []
        for _ in range(max(3, count)):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - started)
        return min(times)

    return {"value": 1000 * (least_s(peer.code) - least_s("pass"))}


def idle(peer, count):
    peer.open()
    pid = os.fork()
    if not pid:
        peer.getter()()
    waits_s = IDLE_S * min(1.0, count / 1_000)

    def used_s():
        with open(f"/proc/{pid}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9

    time.sleep(waits_s / 5)
    before = used_s()
    time.sleep(waits_s)
    return {"value": 100 * (used_s() - before) / waits_s}


if __name__ == "__main__":
    from benchmarks import harness

    harness.main(__doc__, section())
