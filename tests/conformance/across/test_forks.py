"""Queues in forked children."""

from __future__ import annotations

import os

import pytest

from .creators import drain, ends_well

FORKS_WITH_THREADS = """
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # CPython's, about fork with threads
queue, results = hear() or (qmill.Queue(), qmill.Queue())
over = threading.Event()

def churn():
    while not over.is_set():
        queue.put(1)
        queue.peek()
        queue.get()

threads = [threading.Thread(target=churn) for _ in range(3)]
for thread in threads:
    thread.start()
context = multiprocessing.get_context("fork")
for number in range(20):
    process = context.Process(target=results.put, args=(number,))
    process.start()
    process.join(20)
    if process.exitcode != 0:
        tell(f"process {number}: exit code {process.exitcode}")
        process.kill()
        process.join()
over.set()
for thread in threads:
    thread.join()
tell(results.get_many(100))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("made", ["here", "elsewhere"])
def test_a_process_forks_while_its_threads_use_the_queue(start_program, make_own_queue, made):
    program = start_program(FORKS_WITH_THREADS)
    program.tell(None if made == "here" else (make_own_queue(), make_own_queue()))
    assert program.hear() == list(range(20))
    program.finish()


FORKS_AND_ENDS = """
queue = qmill.Queue()
queue.put("made before the fork")
if os.fork() == 0:
    channel.close()
    queue.put("from the forked process")
    sys.exit(0)  # with all that Python does at exit
os.wait()
tell(queue)
hear()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_process_that_ends_takes_nothing_with_it(process_transport, start_program):
    creator = start_program(FORKS_AND_ENDS)
    queue = creator.hear()
    assert drain(queue) == ["made before the fork", "from the forked process"]
    queue.close()
    ends_well(creator)
