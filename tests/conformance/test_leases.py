"""What a loop has in hand, on each transport: when it is done, and when it comes back."""

from __future__ import annotations

import contextlib
import itertools
import logging
import signal
import sys
import threading
import time

import pytest
from conformance_children import Box
from conformance_support import LIMIT_S, Call, wait_until_asleep

import qmill

READS = {
    "Queue": lambda queue: queue,
    "Q": lambda queue: qmill.Q._from_queue(queue),
    "sorted": lambda queue: Sorted(qmill.Q._from_queue(queue)),
}


class Sorted:
    """A `Q` whose loops are those of `sorted`."""

    def __init__(self, q):
        self._q = q

    def __iter__(self):
        return self._q.sorted()

    def __getattr__(self, name):
        return getattr(self._q, name)


@pytest.fixture(params=READS)
def q(request, queue):
    """A queue, or a Q on it."""
    return READS[request.param](queue)


def counts(q):
    """Messages in hand, and those put and not done."""
    found = q.statistics()
    return found.leased, found.unfinished


def data(message):
    return getattr(message, "data", message)


class OfTheUsers(Exception):
    pass


def fail(*_):
    raise OfTheUsers


# -- ways to leave a loop -------------------------------------------------------------------------


def breaks(q):
    for _ in q:
        break


def returns(q):
    for message in q:
        return message
    return None


def returns_through_finally(q):
    for message in q:
        try:
            with contextlib.nullcontext():
                return message
        finally:
            del message
    return None


def takes_one(q):
    return next(iter(q))


def takes_one_into_a_variable(q):
    messages = iter(q)
    return next(messages)


def slices(q):
    return list(itertools.islice(q, 1))


def breaks_in_a_handler(q):
    try:
        fail()
    except OfTheUsers:
        for _ in q:
            break


@pytest.mark.parametrize(
    "leave",
    [
        breaks,
        returns,
        returns_through_finally,
        takes_one,
        takes_one_into_a_variable,
        slices,
        breaks_in_a_handler,
    ],
)
def test_a_loop_that_is_left_without_an_exception_has_done_its_message(q, leave):
    q.put_many(["a", "b"])
    leave(q)
    assert counts(q) == (0, 1)


def raises(q):
    for _ in q:
        fail()


def exits(q):
    for _ in q:
        sys.exit(3)


def is_interrupted(q):
    for _ in q:
        signal.raise_signal(signal.SIGINT)


def raises_through_finally(q):
    for _ in q:
        try:
            with contextlib.nullcontext():
                fail()
        finally:
            contextlib.nullcontext()


def raises_in_a_zip(q):
    for _ in zip(q, "ab", strict=False):
        fail()


def raises_in_a_slice(q):
    for _ in itertools.islice(q, 2):
        fail()


def raises_in_a_map(q):
    list(map(fail, q))


def raises_in_a_comprehension(q):
    return [fail() for _ in q]


def raises_in_a_generator(q):
    return sum(fail() for _ in q)


def closes_a_generator(q):
    """A generator cannot tell how the loop over it was left."""

    def generate():
        for message in q:  # noqa: UP028
            yield message

    for _ in generate():
        fail()


def closes_a_generator_that_delegates(q):
    def generate():
        yield from q

    for _ in generate():
        fail()


def closes(q):
    with contextlib.closing(iter(q)) as messages:
        for _ in messages:
            fail()


@pytest.mark.parametrize(
    "leave",
    [
        raises,
        exits,
        is_interrupted,
        raises_through_finally,
        raises_in_a_zip,
        raises_in_a_slice,
        raises_in_a_map,
        raises_in_a_comprehension,
        raises_in_a_generator,
        closes_a_generator,
        closes_a_generator_that_delegates,
        closes,
    ],
)
def test_a_loop_that_is_left_by_an_exception_keeps_its_message_for_a_while(q, leave):
    q.put_many(["a", "b"])
    with pytest.raises((OfTheUsers, SystemExit, KeyboardInterrupt)) as info:
        leave(q)
    assert counts(q) == (1, 2)
    assert q.qsize() == 1
    del info  # and with it the frames of comprehensions
    q.put("c")
    assert counts(q) == (0, 2)
    assert [data(message) for message in itertools.islice(q, 2)] == ["b", "c"]
    assert q.statistics().redelivered == 0


CALLS_THAT_GO_ON = {
    "put": lambda q: q.put("c"),
    "put_many": lambda q: q.put_many(["c"]),
    "get": lambda q: q.get(),
    "get_many": lambda q: q.get_many(1),
    "next": lambda q: next(iter(q)),
}


@pytest.mark.parametrize("call", CALLS_THAT_GO_ON)
def test_the_next_call_says_that_what_an_exception_has_left_is_done(queue, call):
    queue.put_many(["a", "b"])
    with pytest.raises(OfTheUsers):
        raises(queue)
    queue.statistics(), queue.qsize(), queue.empty(), queue.full(), queue.peek()
    assert counts(queue) == (1, 2)
    CALLS_THAT_GO_ON[call](queue)
    assert queue.statistics().leased == 0


def test_join_does_not_wait_for_what_its_own_thread_has_left(queue):
    queue.put("a")
    with pytest.raises(OfTheUsers):
        raises(queue)
    queue.join()
    assert counts(queue) == (0, 0)


def test_another_threads_call_leaves_it_alone_and_the_threads_end_gives_it_back(q):
    q.put_many(["a", "b"])
    left, go_on = threading.Event(), threading.Event()

    def read():
        with pytest.raises(OfTheUsers):
            raises(q)
        left.set()
        assert go_on.wait(LIMIT_S)

    thread = threading.Thread(target=read)
    thread.start()
    assert left.wait(LIMIT_S)
    assert data(q.get()) == "b"
    q.put("c")
    assert q.statistics().leased == 1
    go_on.set()
    thread.join()
    assert q.statistics().leased == 0
    assert [data(q.get()), data(q.get())] == ["a", "c"]
    assert q.statistics().redelivered == 1


def test_an_exception_ends_a_worker_in_a_thread_and_gives_its_message_back(q):
    q.put_many(["a", "b"])
    for leave in (raises, exits, raises_in_a_comprehension, holds_a_variable):
        with pytest.raises((OfTheUsers, SystemExit)):
            qmill.run_thread(leave, q).result()
        assert counts(q) == (0, 2)
    assert (q.statistics().redelivered, q.statistics().poisoned) == (4, 0)
    assert data(q.get()) == "a"


def holds_a_variable(q):
    messages = iter(q)
    next(messages)
    fail()


def test_loops_over_two_queues_keep_one_message_each(make_queue):
    outer, inner = make_queue(), make_queue()
    outer.put("a"), inner.put("b")

    def both():
        for _ in outer:
            for _ in inner:
                fail()

    with pytest.raises(OfTheUsers):
        both()
    assert counts(outer) == counts(inner) == (1, 1)
    outer.put("c")
    assert (counts(outer), counts(inner)) == ((0, 1), (1, 1))


def test_task_done_in_a_loop_is_for_the_message_in_hand(q):
    q.put_many(["a", "b"])
    for number, _ in enumerate(itertools.islice(q, 2), 1):
        q.task_done()
        assert counts(q) == (0, 2 - number)
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


def cannot_be_rebuilt():
    raise OfTheUsers


class CannotBeRebuilt:
    def __reduce__(self):
        return cannot_be_rebuilt, ()


def test_what_cannot_be_rebuilt_ends_its_loop_and_is_done(own_queue):
    for read in READS.values():
        q = read(own_queue)
        q.put_many([CannotBeRebuilt(), "b"])
        with pytest.raises(qmill.SerializationError):
            next(iter(q))
        assert counts(q) == (0, 1)
        assert data(next(iter(q))) == "b"


# -- release --------------------------------------------------------------------------------------


def test_release_gives_back_what_the_loop_has_in_hand(q):
    q.put_many(["a", "b"])
    seen = []
    for message in q:
        seen.append(data(message))
        if len(seen) == 1:
            q.release(message)
            assert counts(q) == (0, 2)
            with pytest.raises(ValueError, match="is not a message that a loop"):
                q.release(message)
        if len(seen) == 3:
            break
    assert seen == ["a", "a", "b"]
    assert counts(q) == (0, 0)
    assert q.statistics().redelivered == 1
    assert q.statistics().taken == 3


def test_what_was_released_goes_to_whoever_reads_next(q):
    q.put("a")
    for message in q:
        q.release(message)
        assert data(q.get(timeout=LIMIT_S)) == "a"
        break
    assert q.statistics().leased == 0


def test_release_of_what_an_exception_has_left(q):
    q.put("a")
    messages = []
    with pytest.raises(OfTheUsers):
        for message in q:
            messages.append(message)
            fail()
    q.release(messages[0])
    assert counts(q) == (0, 1)
    q.put("b")
    assert counts(q) == (0, 2)
    assert data(q.get()) == "a"


def test_release_refuses_what_no_loop_of_this_thread_holds(queue, make_queue):
    other = make_queue()
    queue.put_many([1000, 2000])
    other.put(3000)
    with pytest.raises(ValueError, match="not a message that a loop of this thread"):
        queue.release(1000)
    for item in queue:
        for another in other:
            with pytest.raises(ValueError, match="not a message"):
                queue.release(another)
            with pytest.raises(ValueError, match="not a message"):
                queue.release(int("1000"))  # an equal object
            with pytest.raises(ValueError, match="not a message"):
                Call(queue.release, item).result()
            break
        for delay in (-1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="delay must be 0 to"):
                queue.release(item, delay)
        with pytest.raises(TypeError, match="delay must be a number of seconds, not str"):
            queue.release(item, "soon")
        queue.release(item)
        break
    assert counts(queue) == (0, 2)
    with pytest.raises(ValueError, match="not a message"):
        queue.release(queue.get())


DELAY_S = 0.15


def test_nobody_gets_a_message_before_its_delay_is_over(q):
    q.put_many(["a", "b"])
    for message in q:
        begun = time.monotonic()
        q.release(message, DELAY_S)
        break
    assert (q.qsize(), counts(q)) == (2, (0, 2))
    assert data(q.get()) == "b"
    with pytest.raises(qmill.Empty):
        q.get(block=False)
    assert data(q.get(timeout=LIMIT_S)) == "a"
    assert time.monotonic() - begun >= DELAY_S


def test_a_reader_that_waits_already_gets_a_message_when_it_is_due(queue):
    queue.put("a")
    loop = iter(queue)
    message = next(loop)
    waiting = Call(lambda: (queue.get(), time.monotonic())).wait_until_blocked()
    begun = time.monotonic()
    queue.release(message, DELAY_S)
    found, when = waiting.result()
    assert found == "a"
    assert when - begun >= DELAY_S
    loop.close()


def test_a_reader_elsewhere_gets_a_message_when_it_is_due(start_program, process_queue):
    process_queue.put("a")
    loop = iter(process_queue)
    message = next(loop)
    reader = start_program("queue = hear(); tell('ready'); tell(queue.get())")
    reader.tell(process_queue)
    assert reader.hear() == "ready"
    wait_until_asleep(reader.pid)
    begun = time.monotonic()
    process_queue.release(message, DELAY_S)
    assert reader.hear() == "a"
    assert time.monotonic() - begun >= DELAY_S
    reader.finish()
    loop.close()


def test_the_end_waits_for_what_is_delayed(queue):
    q = qmill.Q._from_queue(queue)
    q.put("a").put("b").end()
    seen = []
    for message in q:
        seen.append(message.data)
        if seen == ["a"]:
            q.release(message, DELAY_S)
    assert seen == ["a", "b", "a"]


def test_a_loop_does_not_stop_before_what_is_delayed(queue):
    queue.put("a")
    seen = []
    queue.shutdown()
    for item in queue:
        seen.append(item)
        if len(seen) == 1:
            queue.release(item, DELAY_S)
    assert seen == ["a", "a"]


def test_what_is_delayed_takes_room_and_can_be_thrown_away(make_queue):
    queue = make_queue(2)
    queue.put_many(["a", "b"])
    for item in queue:
        queue.release(item, 3600.0)
        break
    assert queue.full()
    with pytest.raises(qmill.Full):
        queue.put("c", block=False)
    queue.shutdown(immediate=True)
    queue.join()
    assert queue.qsize() == 0


# -- ends of processes, and what is set aside -----------------------------------------------------

HOLDS = """
def stop(*_):
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
queue = hear()
for item in queue:
    tell(item)
    {how}
"""

POLITE_ENDS = {
    "exit": "sys.exit(hear())",
    "exception": "raise KeyError(hear())",
    "normal": "hear(); left = item; loop = iter(queue); next(loop); sys.exit(0)",
    "SIGTERM": "hear()",
    "SIGINT": "hear()",
}


def end_with(start_program, queue, how, number=None):
    """Have a program read a queue and end in the middle of its first message, which is returned."""
    program = start_program(HOLDS.format(how=how))
    program.tell(queue)
    message = program.hear()
    if number is not None:
        wait_until_asleep(program.pid)
        program.signal(number)
    else:
        program.tell(1)
    program.exitcode()
    queue._settle()
    return message


@pytest.mark.parametrize("how", POLITE_ENDS)
def test_a_polite_end_gives_the_message_back_and_is_no_death(start_program, own_queue, how):
    own_queue.put_many(["a", "b"])
    for _ in range(4 if how == "exit" else 1):  # more often than a message may die
        number = getattr(signal, how, None)
        assert end_with(start_program, own_queue, POLITE_ENDS[how], number) == "a"
    found = own_queue.statistics()
    assert (found.leased, found.unfinished, found.poisoned, found.lost) == (0, 2, 0, 0)
    assert own_queue.get_many(2) == ["a", "b"]


def test_the_log_tells_of_an_instance_that_was_set_aside(start_program, own_queue, caplog):
    own_queue.put(Box(1))
    with caplog.at_level(logging.ERROR, "qmill"):
        for _ in range(3):
            end_with(start_program, own_queue, "os._exit(hear())")
    assert "conformance" in caplog.text
    assert "damaged" not in caplog.text


def test_three_deaths_set_a_message_aside_until_it_is_put_back(start_program, own_queue, caplog):
    deadly = {"the deadly": 1}
    own_queue.put_many([deadly, "b"])
    with caplog.at_level(logging.ERROR, "qmill"):
        for _ in range(3):
            assert own_queue.poisoned() == []
            assert end_with(start_program, own_queue, "os._exit(hear())") == deadly
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "a message of a queue without a name has killed 3 readers" in record.getMessage()
    assert "{'the deadly': 1}" in record.getMessage()
    found = own_queue.statistics()
    assert (found.size, found.unfinished, found.poisoned, found.redelivered) == (1, 1, 1, 2)
    (aside,) = own_queue.poisoned()
    assert own_queue.poisoned() == [aside] == [deadly]
    with pytest.raises(ValueError, match="not from the last poisoned"):
        own_queue.requeue(aside)
    (aside,) = own_queue.poisoned()
    own_queue.requeue(aside)
    with pytest.raises(ValueError, match="is not set aside"):
        own_queue.requeue(aside)
    found = own_queue.statistics()
    assert (found.size, found.unfinished, found.poisoned, found.redelivered) == (2, 2, 1, 3)
    assert end_with(start_program, own_queue, "os._exit(hear())") == deadly  # its first death again
    assert own_queue.poisoned() == []
    assert own_queue.get_many(2) == [deadly, "b"]
    own_queue.task_done(), own_queue.task_done()
    own_queue.join()
