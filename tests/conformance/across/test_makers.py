"""The process that made a queue ends."""

from __future__ import annotations

import pickle

import conformance_children as children
import pytest
from conformance_support import CALLS, LIMIT_S, blocked

import qmill

from .creators import created_elsewhere, ends_well, get

FIRST_CALLS = ("put", "get", "qsize", "task_done", "join")

BLOCKED_CALLS = {
    "get": ("empty", lambda queue: queue.get()),
    "get with timeout": ("empty", lambda queue: queue.get(timeout=LIMIT_S)),
    "get_many": ("empty", lambda queue: queue.get_many(2)),
    "peek": ("empty", lambda queue: queue.peek()),
    "iteration": ("empty", lambda queue: next(iter(queue))),
    "put": ("full", lambda queue: queue.put("item")),
    "put_many": ("full", lambda queue: queue.put_many(["item"])),
    "join": ("full", lambda queue: queue.join()),
}


def is_killed(creator):
    creator.kill()


each_end = pytest.mark.parametrize("ends", [ends_well, is_killed])


@each_end
@pytest.mark.parametrize(("state", "call"), BLOCKED_CALLS.values(), ids=BLOCKED_CALLS)
def test_a_blocked_call_learns_that_the_queue_is_gone(
    makers_transport, start_program, state, call, ends
):
    creator, queue = created_elsewhere(start_program, state)
    waiting = blocked(call, queue)
    ends(creator)
    with pytest.raises(qmill.QueueGone):
        waiting.result()
    queue.close()


def test_every_waiting_thread_and_process_learns_that_the_queue_is_gone(
    makers_transport, start_program, start
):
    creator, queue = created_elsewhere(start_program)
    threads = [blocked(queue.get) for _ in range(2)]
    processes = [start(children.use, queue, "get").wait_until_blocked() for _ in range(2)]
    creator.kill()
    for waiting in threads + processes:
        with pytest.raises(qmill.QueueGone):
            waiting.result()


def test_every_later_call_says_that_the_queue_is_gone(makers_transport, start_program):
    creator, queue = created_elsewhere(start_program)
    queue.qsize()
    creator.kill()
    for call in CALLS.values():
        with pytest.raises(qmill.QueueGone):
            call(queue)
    queue.close()


@pytest.mark.parametrize("call", [CALLS[name] for name in FIRST_CALLS], ids=FIRST_CALLS)
def test_the_first_call_after_the_end_says_that_the_queue_is_gone(
    makers_transport, start_program, call
):
    creator, queue = created_elsewhere(start_program)
    queue.qsize()
    creator.kill()
    with pytest.raises(qmill.QueueGone):
        call(queue)
    queue.close()


def test_a_handle_first_used_after_the_end_is_gone(makers_transport, start_program):
    creator, queue = created_elsewhere(start_program)
    pickled = pickle.dumps(queue)
    queue.close()
    creator.kill()
    with pytest.raises(qmill.QueueGone):
        pickle.loads(pickled).get()


@each_end
def test_a_queue_outlives_its_maker(common_transport, start_program, start, ends):
    creator, queue = created_elsewhere(start_program)
    queue.put("left behind")
    waiting = start(children.use, queue, "join").wait_until_blocked()
    ends(creator)
    assert get(queue) == "left behind"
    start(children.put_each, queue, ["later"]).result()
    assert get(queue) == "later"
    for _ in range(2):
        queue.task_done()
    waiting.result()
    queue.close()


def test_queue_gone_is_an_os_error():
    assert issubclass(qmill.QueueGone, OSError)
    assert issubclass(qmill.QueueGone, qmill.QmillError)


def test_a_handle_whose_last_holder_is_gone_is_gone(process_transport, start_program):
    creator = start_program("queue = qmill.Queue(); tell(pickle.dumps(queue)); queue.close()")
    pickled = creator.hear()
    creator.finish()
    with pytest.raises(qmill.QueueGone):
        pickle.loads(pickled).get_nowait()


ENDS_WITH_A_QUEUE_UNDER_WAY = """
outbox = hear()
outbox.put({"question": "are you there", "reply": qmill.Queue()})
outbox.put("after it")
"""


def test_a_message_comes_although_the_queue_in_it_is_gone(start_program, own_queue):
    program = start_program(ENDS_WITH_A_QUEUE_UNDER_WAY)
    program.tell(own_queue)
    program.finish()
    message = get(own_queue)
    assert message["question"] == "are you there"
    for call in CALLS.values():
        with pytest.raises(qmill.QueueGone):
            call(message["reply"])
    assert "qmill.Queue" in repr(message)
    message["reply"].close()
    assert get(own_queue) == "after it"
