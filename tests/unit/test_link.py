"""The reports that the engine's side of a worker makes of the bytes in its channel."""

from __future__ import annotations

import socket
from collections import deque

import pytest

from qmill.engines.api import DONE, FAILED, READY, Event
from qmill.engines.codec import Codec
from qmill.engines.process import protocol as packets
from qmill.engines.process.link import GarbledError, Link
from qmill.packing import definitions, remote_errors, serialize


class ChannelOnly(Link):
    """A link to a worker that the test plays."""

    def __init__(self, channel):
        self.name, self.channel, self._codec = "w", channel, Codec(definitions.Names.NEVER)
        self._data, self._files, self._has_lost_files, self._parts = b"", deque(), False, {}


class FakeJob:
    _is_chunk = False


@pytest.fixture
def channel():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def frame(what, job, *parts):
    packed = b"".join(parts)
    return packets.RECORD.pack(what, job, 1.0, 2.0, len(packed)) + packed


def sent(channel, *frames):
    ours, theirs = channel
    theirs.sendall(b"".join(frames))
    link, jobs, reports = ChannelOnly(ours), {7: FakeJob(), 8: FakeJob()}, []
    return link, jobs, reports


def test_an_event_is_its_number_in_a_frame():
    assert [event.value for event in packets.EVENTS] == list(range(len(packets.EVENTS)))
    assert max(packets.EVENTS) <= packets.KIND_BITS
    assert repr(DONE) == "<Event.DONE: 0>"


def test_a_report_has_its_job_and_its_value(channel):
    link, jobs, reports = sent(
        channel,
        frame(DONE, 7, *serialize.dump_result([1, 2], serialize.Exports())),
        frame(FAILED, 8, remote_errors.dump_error(KeyError("k"))),
        frame(READY, 0),
    )
    assert link.read(jobs, reports)
    done, failed, ready = reports
    assert done == (DONE, jobs[7], [1, 2], 1.0, 2.0, 0, "w")
    assert (failed.job, repr(failed.value), failed.exitcode) == (jobs[8], "KeyError('k')", 1)
    assert (ready.what, ready.job) == (READY, None)


@pytest.mark.parametrize("bad", [Event.DIED, packets.KIND_BITS])
def test_reports_before_garbage_are_good(channel, bad):
    packed = serialize.dump_result(5, serialize.Exports())
    link, jobs, reports = sent(channel, frame(DONE, 7, *packed), frame(bad, 8))
    with pytest.raises(GarbledError, match=str(int(bad))):
        link.read(jobs, reports)
    assert [report.value for report in reports] == [5]


def test_an_answer_for_a_job_that_the_worker_does_not_have_is_garbage(channel):
    link, jobs, reports = sent(channel, frame(DONE, 9))
    with pytest.raises(GarbledError, match="DONE for job 9"):
        link.read(jobs, reports)


def test_the_end_of_the_channel(channel):
    link, jobs, reports = sent(channel)
    channel[1].close()
    assert not link.read(jobs, reports)
