"""Jobs without a queue, and ways to end them."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import traceback
from concurrent.futures import wait
from datetime import datetime, timedelta

import pytest

from qmill.jobs import job as job_module
from qmill.jobs.failures import Failure, log_unseen
from qmill.jobs.job import CANCELLED, FINISHED, RUNNING, Job, Options

from ...crash.programs import Call

LIMIT_S = 30.0
DAY = datetime(2030, 1, 1)


class Owner:
    """A queue of which a job knows how to be cancelled, unless it refuses."""

    qid = "the queue"

    def __init__(self, refuses=False):
        self.refuses = refuses
        self.asked = []

    def log_later(self, what, error):
        log_unseen(what, error)

    def cancel(self, job):
        self.asked.append(job)
        if self.refuses or not job._settle(CANCELLED, None, None):
            return False
        job._call_back()
        return True

    def host_of(self, worker):
        return None if worker is None else "here"

    def wall_time(self, moment_s):
        return DAY + timedelta(seconds=moment_s)


OWNER = Owner()
NUMBERS = itertools.count(1000)


def function_of_a_job(*args, **kwargs):
    return args, kwargs


def make(owner=OWNER, **options):
    return Job(
        next(NUMBERS), function_of_a_job, (1, 2), {"key": 3}, 100, Options(**options), owner, 5.0
    )


def succeed(job, result=None):
    assert job._settle(FINISHED, result, None)
    job._call_back()
    return job


def fail(job, error=None, how="failed"):
    job._failure = Failure(how)
    assert job._settle(FINISHED, None, error or ValueError("no good"))
    job._call_back()
    return job


def cancel(job, error=None):
    assert job._settle(CANCELLED, None, error)
    job._call_back()
    return job


def run(job):
    job._state = RUNNING
    return job


def ask_in_vain(job):
    with pytest.raises(TimeoutError):
        job.result(0)


def wait_a_bit(job):
    assert wait([job], timeout=0).not_done == {job}


def in_step(rounds, jobs_of, parts):
    """Run the parts, a thread each, over the jobs of each round, all beginning it at once."""
    barrier = threading.Barrier(len(parts))

    def work(part):
        try:
            for number in range(rounds):
                barrier.wait(LIMIT_S)
                part(jobs_of[number])
        except BaseException:
            barrier.abort()
            raise

    calls = [Call(work, part) for part in parts]
    errors = []
    for call in calls:
        try:
            call.result()
        except threading.BrokenBarrierError:
            pass  # because another failed
        except BaseException as error:
            errors.append(error)
    if errors:
        raise errors[0]


def failed_job(error=None, how="failed", name="sum of all"):
    """Do what a queue does with a job that failed and that `get` may fetch."""
    return fail_loudly(make(name=name), error or ValueError("no good"), how)


def fail_loudly(job, error, how="failed"):
    job._failure = Failure(how)
    job._fail_loudly(error)
    assert job._settle(FINISHED, None, error)
    job._call_back()
    return job


def in_child(function, *args):
    """Call a function in a forked child, which is ended if it hangs: its exit code."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            job_module.after_fork_in_child()
            function(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
