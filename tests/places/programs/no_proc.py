"""Queues, workers and jobs where there is no /proc."""

import os
import signal
import sys

import qmill
from qmill.processes import handles


def put(queue, value):
    queue.put(value)


def wait_and_tell(queue):
    queue.put(os.getpid())
    signal.pause()


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_worker(queue):
    """Be a parent that is killed: its worker ends as well."""
    started = qmill.Queue()
    qmill.run(wait_and_tell, started)
    queue.put(started.get(timeout=20))
    os.kill(os.getpid(), signal.SIGKILL)


def read(messages, back):
    for message in messages:
        back.put(message.data)


def main():
    assert not os.path.exists("/proc/self")
    told = qmill.core_info()
    assert told.transport == "portable", told
    assert told.core is False, told
    assert "/proc" in told.why or "was not built" in told.why, told

    queue = qmill.Queue()
    for value in (1, bytes(1 << 22)):
        qmill.run(put, queue, value).result(20)
        assert queue.get(timeout=20) == value
    named = qmill.Queue(name="odd")
    qmill.run(put, named, 2).result(20)
    assert named.get(timeout=20) == 2
    named.close()

    messages, back = qmill.Q(), qmill.Queue()
    workers = [qmill.run(read, messages, back) for _ in range(2)]
    for number in range(10):
        messages.put(number)
    messages.stop(workers)
    assert sorted(back.get(timeout=20) for _ in range(10)) == list(range(10))

    with qmill.JobQueue(2) as jobs:
        assert jobs.submit(len, bytes(1 << 22)).result(20) == 1 << 22
        assert jobs.submit(put, queue, 3).result(20) is None
        assert queue.get(timeout=20) == 3
        death = jobs.submit(kill_itself).exception(20)
        assert isinstance(death, qmill.WorkerDied), death
        assert jobs.submit(pow, 2, 3).result(20) == 8
    assert list(qmill.map(abs, range(-3, 3))) == [3, 2, 1, 0, 1, 2]

    parent = qmill.run(leave_a_worker, queue)
    pidfd = os.pidfd_open(queue.get(timeout=20))
    assert handles.wait_readable([pidfd], 20), "the worker outlives its parent"
    assert parent.exception(20).signal == signal.SIGKILL


if __name__ == "__main__":
    qmill.set_start_method(sys.argv[1])
    main()
    print("done")
