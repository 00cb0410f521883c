"""Jobs in a forked child."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import as_completed

from qmill.jobs import job as job_module
from qmill.jobs.failures import tell_unseen

from ...crash.programs import Call
from .alone import LIMIT_S, failed_job, in_child, make, succeed


def test_a_child_can_watch_although_a_thread_of_its_parent_was_just_doing_so():
    locked, go_on = threading.Event(), threading.Event()

    def hold():
        with job_module._watch_lock:
            locked.set()
            go_on.wait(LIMIT_S)

    call = Call(hold)
    assert locked.wait(LIMIT_S)
    job = make()

    def watch():
        called = []
        job.add_done_callback(called.append)
        succeed(job, 3)
        assert called == [job]
        assert list(as_completed([job], timeout=0)) == [job]

    code = in_child(watch)
    go_on.set()
    call.result()
    assert code == 0


def test_a_failure_of_the_parent_is_told_by_the_parent_alone(told):
    jobs = [failed_job(), failed_job()]

    def end():
        jobs.pop()
        gc.collect()
        tell_unseen()
        assert told() == []

    assert in_child(end) == 0
    jobs.clear()
    gc.collect()
    assert len(told()) == 2
