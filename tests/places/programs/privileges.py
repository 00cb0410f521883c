"""Workers and programs that give up root's privileges after they began."""

import ctypes
import os
import sys

import qmill
import qmill.queues.portable.client  # while its files may be read

NOBODY = 65534
SIZES = (10, 4 << 20)
PR_SET_DUMPABLE = 4


def drop():
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def drop_with(*queues):
    kept.extend(queues)
    drop()


kept = []


def put(queue, size):
    queue.put(bytes(size))
    return os.getuid()


def same(data):
    return data, os.getuid()


def lead(queue, back, size):
    """Drop, hand on what was given and what is new, and send a result."""
    drop()
    assert qmill.run(put, queue, size).result(20) == NOBODY
    own = qmill.Queue()
    qmill.run(put, own, size).result(20)
    back.put(own.get(timeout=20))
    return bytes(size)


def read(messages, back):
    drop()
    for message in messages:
        back.put(message.data)


def workers_drop():
    for size in SIZES:
        queue, back = qmill.Queue(), qmill.Queue()
        worker = qmill.run(lead, queue, back, size)
        assert worker.result(30) == queue.get(timeout=20) == back.get(timeout=20) == bytes(size)


def readers_drop():
    messages, back = qmill.Q(), qmill.Queue()
    workers = [qmill.run(read, messages, back) for _ in range(2)]
    sent = [bytes(size + number) for number in range(3) for size in SIZES]
    for data in sent:
        messages.put(data)
    messages.stop(workers)
    assert sorted(back.get(timeout=20) for _ in sent) == sorted(sent)


def job_workers_drop():
    queue = qmill.Queue()
    with qmill.JobQueue(1, initializer=drop_with, initargs=(queue,)) as jobs:
        for size in (*SIZES, 40 << 20):
            assert jobs.submit(same, bytes(size)).result(20) == (bytes(size), NOBODY)
        assert jobs.submit(put, queue, SIZES[1]).result(20) == NOBODY
        assert queue.get(timeout=20) == bytes(SIZES[1])


def late_queue():
    """A queue that comes with a job, when the worker may not open root's files any more."""
    queue = qmill.Queue()
    with qmill.JobQueue(1, initializer=drop) as jobs:
        error = jobs.submit(put, queue, 1).exception(20)
        if error is not None:
            assert isinstance(error, qmill.QueueGone), error
            assert "initargs" in str(error), error


def not_dumpable():
    """Files under /proc are closed to others, also to those of this user."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    workers_drop()


def program_drops():
    queue = qmill.Queue()
    older = qmill.JobQueue(1)
    assert older.submit(same, b"").result(20) == (b"", 0)
    waiting = qmill.run(queue.get)
    drop()
    queue.put("to root")
    assert waiting.result(20) == "to root"
    assert older.submit(same, bytes(SIZES[1])).result(20) == (bytes(SIZES[1]), 0)
    older.shutdown()
    assert qmill.core_info().transport == "portable"
    for size in SIZES:
        assert qmill.run(put, queue, size).result(20) == NOBODY
        assert queue.get(timeout=20) == bytes(size)
        own = qmill.Queue()
        with qmill.JobQueue(1) as jobs:
            assert jobs.submit(same, bytes(size)).result(20) == (bytes(size), NOBODY)
            assert jobs.submit(put, own, size).result(20) == NOBODY
        assert own.get(timeout=20) == bytes(size)


if __name__ == "__main__":
    qmill.set_start_method(sys.argv[1])
    os.environ["QMILL_START_METHOD"] = sys.argv[1]
    for name in sys.argv[2:]:
        globals()[name]()
    print("done")
