"""Queues in messages and jobs: none is left on any side, and none is lost on its way."""

from __future__ import annotations

import gc
import os
import pickle
import queue as queue_module
import threading

import pytest

import qmill

from .programs import LIMIT_S

rings = pytest.importorskip("qmill.queues.rings", reason="needs queues in shared memory")
pytestmark = pytest.mark.skipif(
    qmill.core_info().transport != "shared", reason="needs queues in shared memory"
)

SENT, PICKLED = rings._sent._limit, rings._pickled._limit


def open_files(pid="self"):
    return len(os.listdir(f"/proc/{pid}/fd"))


def answer(questions):
    for number, answers in questions:
        answers.put(number + 1)


def exchange(questions, number):
    answers = qmill.Queue()
    questions.put((number, answers))
    assert answers.get(timeout=LIMIT_S) == number + 1
    answers.close()


def check_replies(requests):
    questions = qmill.Queue()
    worker = qmill.run(answer, questions)
    exchange(questions, 0)
    before, there = open_files(), open_files(worker.pid)
    for number in range(requests):
        exchange(questions, number)
    gc.collect()
    assert open_files() <= before + 1
    assert open_files(worker.pid) <= there + 2
    questions.shutdown()
    worker.join(LIMIT_S)
    assert worker.exitcode == 0


def test_replies_leave_nothing_on_either_side():
    check_replies(1500)


@pytest.mark.chaos
def test_a_hundred_thousand_replies_leave_nothing():
    check_replies(100_000)


def test_queues_of_jobs_leave_nothing():
    with qmill.JobQueue(1) as jobs:
        jobs.submit(abs, 1).result(LIMIT_S)
        before = open_files()
        for number in range(40):
            queue = qmill.Queue()
            jobs.submit(put, queue, number).result(LIMIT_S)
            assert queue.get(timeout=LIMIT_S) == number
            queue.close()
            del queue
        gc.collect()
        assert open_files() <= before + 2


def put(queue, number):
    queue.put(number)


def test_what_is_sent_and_never_received_is_bounded():
    carrier = qmill.Queue()
    before = open_files()
    for _ in range(SENT + 50):
        carrier.put((0, qmill.Queue()))
    assert open_files() <= before + SENT + 1
    del carrier
    rings._sent.clear()


def test_pickles_that_are_never_loaded_are_bounded():
    before = open_files()
    for _ in range(PICKLED + 40):
        queue = qmill.Queue()
        pickle.dumps(queue)
        queue.close()
        del queue
    assert open_files() <= before + PICKLED
    rings._pickled.clear()


def test_a_queue_is_kept_until_its_message_is_read():
    carrier = qmill.Queue()
    for number in range(SENT // 2):
        queue = qmill.Queue()
        queue.put(number)
        carrier.put((number, queue))
        queue.close()
    for number in range(SENT // 2):
        found, queue = carrier.get(timeout=LIMIT_S)
        assert queue.get(timeout=LIMIT_S) == found == number


def test_a_queue_that_is_sent_twice_is_kept_for_both():
    first, second = qmill.Queue(), qmill.Queue()
    queue = qmill.Queue()
    queue.put("there")
    first.put([queue])
    second.put([queue])
    uuid = queue._ring.uuid
    queue.close()
    [one] = second.get(timeout=LIMIT_S)
    one.close()
    [other] = first.get(timeout=LIMIT_S)
    assert other._ring.uuid == uuid
    assert other.get(timeout=LIMIT_S) == "there"
    other.close()
    assert uuid not in rings._rings


def forward(questions, carrier):
    [queue] = questions.get(timeout=LIMIT_S)
    carrier.put([queue])
    queue.close()
    assert questions.get(timeout=LIMIT_S) == "end"


def test_a_receiver_sends_a_queue_on():
    questions, carrier = qmill.Queue(), qmill.Queue()
    queue = qmill.Queue()
    queue.put("there")
    worker = qmill.run(forward, questions, carrier)
    questions.put([queue])
    queue.close()
    [again] = carrier.get(timeout=LIMIT_S)
    assert again.get(timeout=LIMIT_S) == "there"
    questions.put("end")
    worker.join(LIMIT_S)
    assert worker.exitcode == 0


def send_and_end(carrier):
    carrier.put([qmill.Queue()])


def test_the_queue_of_a_sender_that_has_ended_is_gone():
    carrier = qmill.Queue()
    worker = qmill.run(send_and_end, carrier)
    worker.join(LIMIT_S)
    [queue] = carrier.get(timeout=LIMIT_S)
    with pytest.raises(qmill.QueueGone):
        queue.put(1)


def test_close_frees_the_file():
    before = open_files()
    queue = qmill.Queue()
    queue.put(1)
    assert open_files() > before
    queue.close()
    assert open_files() == before
    for call in (queue.qsize, queue.get_nowait, lambda: queue.put(1), lambda: pickle.dumps(queue)):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_threads_close_a_handle_at_once():
    for number in range(50):
        queue = qmill.Queue(name=f"closed-{os.getpid()}-{number}")
        barrier, failed = threading.Barrier(3), []

        def close(queue=queue, barrier=barrier, failed=failed):
            barrier.wait(LIMIT_S)
            try:
                queue.close()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=close) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert failed == []


def test_an_iterator_that_threads_share_says_so():
    messages = qmill.Q()
    shared = iter(messages)
    outcomes = queue_module.SimpleQueue()

    def take():
        try:
            outcomes.put(next(shared))
        except Exception as error:
            outcomes.put(error)

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    error = outcomes.get(timeout=LIMIT_S)  # nothing is there, so the first waits for good
    assert isinstance(error, ValueError)
    assert "another thread" in str(error)
    messages.put("there")
    assert outcomes.get(timeout=LIMIT_S).data == "there"
    for thread in threads:
        thread.join(LIMIT_S)
