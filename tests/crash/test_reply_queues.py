"""Queues in messages and jobs: none is left on any side, and none is lost on its way."""

from __future__ import annotations

import gc
import os
import pickle
import queue as queue_module
import signal
import threading

import pytest

import qmill
from qmill.queues.portable import broker, served

from .programs import LIMIT_S

try:
    from qmill.queues.shared import rings
except ImportError:  # no native core
    rings = None
    TRANSPORTS = ["portable"]
else:
    TRANSPORTS = ["shared", "portable"]
pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors")

SENT, PICKLED = served._KEPT_SENT, served._KEPT_PICKLED
only_shared = pytest.mark.parametrize("transport", TRANSPORTS[:-1], indirect=True)


@pytest.fixture(params=TRANSPORTS, autouse=True)
def transport(request, monkeypatch):
    """Have the queues of a test in shared memory, or behind a broker."""
    monkeypatch.setenv("QMILL_TRANSPORT", request.param)
    forget_pickles()
    yield request.param
    forget_pickles()


def open_files(pid="self"):
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kb(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def num_queues():
    """Count the queues that are there for this process: in its memory, or at its broker."""
    here = broker.this_broker()
    here.settle()
    return len(here._mailboxes) + (len(rings._rings) if rings is not None else 0)


def forget_pickles():
    broker.this_broker()._kept = served.Kept()
    if rings is not None:
        rings._sent.clear()
        rings._pickled.clear()


def answer(questions):
    for number, answers in questions:
        answers.put(number + 1)


def exchange(questions, number):
    answers = qmill.Queue()
    questions.put((number, answers))
    assert answers.get(timeout=LIMIT_S) == number + 1
    answers.close()


def ask(questions, requests, told, goon):
    """Be a client, whose queues are its own."""
    for number in range(requests):
        exchange(questions, number)
        if number in (requests // 3, requests - 1):
            told.put((num_queues(), open_files(), resident_kb("self")))
            assert goon.get(timeout=LIMIT_S)


def check_replies(requests, may_grow_kb):
    """Have a server answer this program, then a client of its own; all stay as they are."""
    questions = qmill.Queue()
    worker = qmill.run(answer, questions)
    gc.collect()

    def census():
        return num_queues(), open_files(), open_files(worker.pid)

    for number in range(requests):
        exchange(questions, number)
        if number == requests // 3:
            before, kb = census(), [resident_kb(pid) for pid in ("self", worker.pid)]
    gc.collect()
    after = census()
    assert [late - early for late, early in zip(after, before, strict=True)] <= [1, 1, 2]
    for pid, early in zip(("self", worker.pid), kb, strict=True):
        assert resident_kb(pid) <= early + may_grow_kb
    told, goon = qmill.Queue(), qmill.Queue()
    client = qmill.run(ask, questions, requests, told, goon)
    early = told.get(timeout=20 * LIMIT_S)
    kb = resident_kb(worker.pid)
    files = open_files(worker.pid)
    goon.put(True)
    late = told.get(timeout=20 * LIMIT_S)
    assert late[0] <= early[0] + 1
    assert late[1] <= early[1] + 2
    assert late[2] <= early[2] + may_grow_kb
    assert resident_kb(worker.pid) <= kb + may_grow_kb
    assert open_files(worker.pid) <= files + 2
    goon.put(True)
    client.join(LIMIT_S)
    questions.shutdown()
    worker.join(LIMIT_S)
    assert (client.exitcode, worker.exitcode) == (0, 0)


def test_replies_leave_nothing_on_either_side():
    check_replies(1500, 2000)


@pytest.mark.chaos
def test_a_hundred_thousand_replies_leave_nothing():
    check_replies(100_000, 2000)


def ask_until_killed(questions, told):
    number = 0
    while True:
        exchange(questions, number)
        number += 1
        told.put(number)


def answer_whoever_lives(questions):
    for number, answers in questions:
        try:
            answers.put(number + 1)
        except qmill.QueueGone:
            pass  # its client was killed


def test_killed_clients_leave_nothing():
    questions, told = qmill.Queue(), qmill.Queue()
    worker = qmill.run(answer_whoever_lives, questions)
    counts = []
    for _ in range(8):
        client = qmill.run(ask_until_killed, questions, told)
        for _ in range(5):
            told.get(timeout=LIMIT_S)
        os.kill(client.pid, signal.SIGKILL)
        client.join(LIMIT_S)
        exchange(questions, 0)  # the server is through with that client
        while True:
            try:
                told.get_nowait()
            except qmill.Empty:
                break
        counts.append((num_queues(), open_files(), open_files(worker.pid)))
    for late, early in zip(counts[-1], counts[1], strict=True):
        assert late <= early + 2
    questions.shutdown()
    worker.join(LIMIT_S)
    assert worker.exitcode == 0


def test_queues_of_jobs_leave_nothing():
    with qmill.JobQueue(1) as jobs:
        jobs.submit(put, qmill.Queue(), 1).result(LIMIT_S)
        gc.collect()
        before, queues = open_files(), num_queues()
        for number in range(40):
            queue = qmill.Queue()
            jobs.submit(put, queue, number).result(LIMIT_S)
            assert queue.get(timeout=LIMIT_S) == number
            queue.close()
            del queue
        gc.collect()
        assert open_files() <= before + 2
        assert num_queues() <= queues + 1


def put(queue, number):
    queue.put(number)


def test_what_is_sent_and_never_received_is_bounded():
    carrier = qmill.Queue()
    before = num_queues()
    for _ in range(SENT + 50):
        carrier.put((0, qmill.Queue()))
    assert before + SENT // 2 <= num_queues() <= before + SENT + 1
    del carrier


def test_pickles_that_are_never_loaded_are_bounded():
    before = num_queues()
    for _ in range(PICKLED + 40):
        queue = qmill.Queue()
        pickle.dumps(queue)
        queue.close()
        del queue
    assert before + PICKLED // 2 <= num_queues() <= before + PICKLED


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
    before = num_queues()
    first, second = qmill.Queue(), qmill.Queue()
    queue = qmill.Queue()
    queue.put("there")
    first.put([queue])
    second.put([queue])
    queue.close()
    del queue
    [one] = second.get(timeout=LIMIT_S)
    one.close()
    del one
    [other] = first.get(timeout=LIMIT_S)
    assert num_queues() == before + 3
    assert other.get(timeout=LIMIT_S) == "there"
    other.close()
    del other
    assert num_queues() == before + 2


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


@only_shared
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
    assert "another thread" in str(error) or "already executing" in str(error)
    messages.put("there")
    assert outcomes.get(timeout=LIMIT_S).data == "there"
    for thread in threads:
        thread.join(LIMIT_S)
