"""Handles are closed; processes end with unread data, or by Ctrl-C."""

from __future__ import annotations

import signal

import conformance_children as children
import pytest

from .creators import drain, ends_well, get

# -- closing --------------------------------------------------------------------------------------


def test_closing_one_processes_handle_leaves_the_others(start, process_queue):
    holder = start(children.hold_closed, process_queue)
    assert holder.hear() == "closed"
    process_queue.put("open here")
    assert process_queue.get_nowait() == "open here"
    holder.tell("end")
    holder.result()


def test_closing_the_makers_handle_leaves_the_others(start, start_program, process_transport):
    creator = start_program(
        "queue = qmill.Queue(); tell(queue); hear(); queue.close(); tell('closed'); hear()"
    )
    queue = creator.hear()
    queue.put("before")
    creator.tell("close")
    assert creator.hear() == "closed"
    start(children.put_each, queue, ["after"]).result()
    assert drain(queue) == ["before", "after"]
    queue.close()
    ends_well(creator)


def test_a_closed_handle_can_be_sent_anew_by_others(start, process_queue):
    start(children.hold_closed, process_queue).tell("end")
    start(children.put_each, process_queue, ["again"]).result()
    assert get(process_queue) == "again"


# -- the end of a process with unread data --------------------------------------------------------


def test_unread_data_does_not_keep_a_process_from_ending(start, own_queue):
    """PAINS 5: unread data keeps a process from exiting."""
    start(children.put_each, own_queue, [b"x" * 5_000_000] * 2).result()
    assert own_queue.qsize() == 2


def test_unread_data_does_not_keep_its_maker_from_ending(process_transport, start_program):
    """PAINS 5: unread data keeps a process from exiting."""
    start_program("queue = qmill.Queue(); queue.put(b'x' * 20_000_000)").finish()


def test_a_forgotten_reader_thread_does_not_keep_a_process_from_ending(
    start_program, process_queue
):
    """PAINS 5: unread data keeps a process from exiting."""
    program = start_program(
        "queue = hear(); threading.Thread(target=queue.get, daemon=True).start(); tell('started')"
    )
    program.tell(process_queue)
    assert program.hear() == "started"
    program.finish()


def test_readers_that_a_program_leaves_behind_raise_nothing(start_program, process_queue):
    """CPython aborts a process in which a daemon thread prints while the end flushes."""
    program = start_program(
        """
queue = hear()
threading.excepthook = lambda *_: os._exit(3)
for _ in range(20):
    threading.Thread(target=queue.get, daemon=True).start()
tell('started')
"""
    )
    program.tell(process_queue)
    assert program.hear() == "started"
    program.finish()


# -- Ctrl-C ---------------------------------------------------------------------------------------


INTERRUPTED = """
queue, state, method, arguments = hear()
if isinstance(queue, str):
    queue = qmill.Queue(1, kind=queue)
if state == "full":
    queue.put("there")
tell("ready")
try:
    getattr(queue, method)(**arguments)
except KeyboardInterrupt:
    tell("interrupted")
hear()
while not queue.empty():
    queue.get()
queue.put("works on")
tell(queue.get())
"""

INTERRUPTIBLE = {
    "get": ("empty", "get", {}),
    "get with timeout": ("empty", "get", {"timeout": 1000.0}),
    "peek": ("empty", "peek", {}),
    "put": ("full", "put", {"obj": "more"}),
    "join": ("full", "join", {}),
}


def interrupt(program, queue, state, method, arguments):
    program.tell((queue, state, method, arguments))
    program.wait_until_blocked()
    program.signal(signal.SIGINT)
    assert program.hear() == "interrupted"


def ends_after_working_on(program):
    program.tell("go on")
    assert program.hear() == "works on"
    program.finish()


@pytest.mark.parametrize("case", INTERRUPTIBLE.values(), ids=INTERRUPTIBLE)
def test_ctrl_c_interrupts_a_blocked_call(start_program, place, make_queue, case):
    program = start_program(INTERRUPTED)
    interrupt(program, place.kind if place.made == "here" else make_queue(1), *case)
    ends_after_working_on(program)


def test_an_interrupted_get_swallows_nothing(start_program, process_queue):
    program = start_program(INTERRUPTED)
    interrupt(program, process_queue, *INTERRUPTIBLE["get"])
    process_queue.put("for whoever asks")
    assert process_queue.get_nowait() == "for whoever asks"
    ends_after_working_on(program)


def test_an_interrupted_put_leaves_the_queue_whole(start_program, make_process_queue):
    queue = make_process_queue(maxsize=1)
    program = start_program(INTERRUPTED)
    interrupt(program, queue, *INTERRUPTIBLE["put"])
    assert drain(queue) in (["there"], ["there", "more"])
    ends_after_working_on(program)


HANDLES_A_SIGNAL = """
queue = hear() or qmill.Queue()
signal.signal(signal.SIGUSR1, lambda *_: queue.put("from the handler"))
tell("ready")
tell(queue.get())
"""


@pytest.mark.parametrize("made", ["here", "elsewhere"])
def test_a_signal_handler_may_put_while_its_thread_waits(start_program, make_own_queue, made):
    program = start_program(HANDLES_A_SIGNAL)
    program.tell(None if made == "here" else make_own_queue())
    program.wait_until_blocked()
    program.signal(signal.SIGUSR1)
    assert program.hear() == "from the handler"
    program.finish()
