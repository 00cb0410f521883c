"""Outcomes of jobs, the health of a queue, and its workers' processes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from pathlib import Path

from .. import functions, job_functions
from ..programs import LIMIT_S, Watch


def check_healthy(jobs):
    """See that a queue still runs jobs, and that nothing is left in it."""
    some = [jobs.submit(functions.add, number, 1) for number in range(20)]
    assert [job.result(LIMIT_S) for job in some] == list(range(1, 21))
    assert jobs.wait() == 0
    assert jobs.size(waiting=True) == jobs.size(working=True) == 0


def outcome(job):
    """Wait for a job; return its result or its exception."""
    try:
        return job.result(LIMIT_S)
    except BaseException as error:
        return error


def marks(path):
    """Count how often each number was written into a file."""
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def still_there(pids):
    """Wait until processes have ended; return those that do not."""
    left = []
    for pid in pids:
        try:
            left += Watch([pid]).wait()
        except ProcessLookupError:
            pass
    return left


def fork_servers():
    pids = []
    for pid in Path("/proc/self/task").glob("*/children"):
        for child in pid.read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:
                continue
            if b"fork_server" in command:
                pids.append(int(child))
    return pids


@contextlib.contextmanager
def a_worker(rng, worker_pids):
    """Give a handle of a worker at random, or None; it is not of another one with its number."""
    pid = rng.choice(sorted(worker_pids()) or [None])
    try:
        pidfd = None if pid is None else os.pidfd_open(pid)
    except ProcessLookupError:
        pidfd = None
    try:
        yield pidfd if pidfd is not None and pid in worker_pids() else None
    finally:
        if pidfd is not None:
            os.close(pidfd)


def send_signal(pidfd, number):
    """Send a signal to a worker, if there is one; return whether there was."""
    try:
        if pidfd is not None:
            signal.pidfd_send_signal(pidfd, number)
            return True
    except ProcessLookupError:
        pass
    return False


def learn(jobs, file):
    """Run quick calls of a function until it is known to be short."""
    some = [jobs.submit(job_functions.mark_and_wait, file, -1) for _ in range(200)]
    assert {job.result() for job in some} == {-1}
