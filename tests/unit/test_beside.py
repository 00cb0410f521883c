"""What is too large for a worker's channel goes through shared memory, or says that it cannot."""

from __future__ import annotations

import os

import numpy
import pytest

import qmill
from qmill.engines.process import large_payloads
from qmill.engines.process.large_payloads import Copies, Inbox, Outbox

pytestmark = pytest.mark.skipif(
    not qmill.core_info().core, reason="there is no native core: all goes in files"
)

LARGE = bytes(range(256)) * 400


@pytest.fixture(params=[True, False], ids=["copied", "lent"])
def ends(request):
    """Both ends of one way, and how often the ring's file was sent."""
    outbox, inbox = Outbox(), Inbox(request.param)
    told = []

    def tell(descriptor):
        told.append(descriptor)
        inbox.open(os.dup(descriptor))

    return outbox, inbox, tell, told


def test_payloads_arrive_in_order_and_the_file_is_sent_once(ends):
    outbox, inbox, tell, told = ends
    tickets = [outbox.put([LARGE, bytes([number])], tell) for number in range(20)]
    for number, ticket in enumerate(tickets):
        assert inbox.take(ticket) == LARGE + bytes([number])
    assert len(told) == 1


def test_what_has_arrived_may_be_written_and_outlives_both_ends(ends):
    outbox, inbox, tell, _ = ends
    array = numpy.frombuffer(inbox.take(outbox.put([LARGE], tell)), dtype=numpy.uint8)
    outbox._ring = inbox._ring = None
    array[:] = 7
    assert (array == 7).all()


def test_a_payload_whose_message_was_never_sent_is_left_out(ends):
    outbox, inbox, tell, _ = ends
    outbox.put([b"never told of", LARGE], tell)
    ticket = outbox.put([b"told of", LARGE], tell)
    assert inbox.take(ticket) == b"told of" + LARGE


def test_a_ticket_of_nothing_is_an_error(ends):
    outbox, inbox, tell, _ = ends
    outbox.put([LARGE], tell)
    with pytest.raises(qmill.Empty):
        inbox.take(b"none")


def test_the_largest_and_a_forked_childs_go_in_files(ends):
    outbox, _, tell, told = ends
    assert outbox.put([bytes(large_payloads._LARGEST_BYTES), b"one more"], tell) is None
    outbox.forget_in_child()
    assert outbox.put([LARGE], tell) is None
    assert told == []


def test_a_channel_that_takes_nothing_now_is_told_again(ends):
    outbox, inbox, tell, _ = ends

    def full(descriptor):
        raise BlockingIOError

    with pytest.raises(BlockingIOError):
        outbox.put([LARGE], full)
    assert inbox.take(outbox.put([LARGE], tell)) == LARGE


def test_a_copy_keeps_its_memory_and_a_forgotten_one_leaves_it_to_the_next():
    copies = Copies()
    first, second = copies.join([LARGE, b"1"]), copies.join([LARGE[1:], b"22"])
    assert (first, second) == (LARGE + b"1", LARGE[1:] + b"22")
    memory = first.obj
    del first
    third = copies.join([LARGE[2:], b"3"])
    assert third.obj is memory
    assert (third, second) == (LARGE[2:] + b"3", LARGE[1:] + b"22")


def test_copies_of_any_size_are_right_and_small_ones_are_bytes():
    copies = Copies()
    for times in (3, 1, 0, 5, 2):
        copy = copies.join([LARGE] * times + [b"end"])
        assert copy == LARGE * times + b"end"
        assert (type(copy) is bytes) == (times == 0)


def test_copies_do_not_keep_more_memory_than_they_may(monkeypatch):
    copies = Copies()
    held = [copies.join([LARGE]) for _ in range(5)]
    monkeypatch.setattr(large_payloads, "_FREE_BYTES", 2 * len(held[0].obj))
    held.clear()
    assert sum(map(len, copies._free.values())) == 2
    monkeypatch.setattr(large_payloads, "_LARGEST_BYTES", len(LARGE) - 1)
    assert type(copies.join([LARGE])) is bytes


def test_a_small_copy_does_not_hold_the_memory_of_a_large_one():
    copies = Copies()
    large = copies.join([LARGE] * 100)
    del large
    assert len(copies.join([LARGE]).obj) <= 1.25 * len(LARGE)
