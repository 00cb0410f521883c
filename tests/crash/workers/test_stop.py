"""`Q.stop` ends the workers that read from it."""

from __future__ import annotations

import os
import signal

import pytest

import qmill
from qmill.packing.remote_errors import RemoteTraceback

from .. import functions
from ..programs import LIMIT_S, Call, wait_until
from .leftovers import data_of


def test_stop_ends_and_joins(method, run):
    q, out = qmill.Q(), qmill.Q()
    crew = [run(functions.read_to, q, out) for _ in range(2)]
    q.put_many(range(20))
    assert q.stop(crew) is q
    assert not any(worker.is_alive() for worker in crew)
    assert sorted(data_of(out.items())) == list(range(20))
    assert q.empty()
    assert q.statistics().unfinished == 0


def test_stop_takes_one_worker_and_any_iterable(method, run):
    q, out = qmill.Q(), qmill.Q()
    q.stop(run(functions.read_to, q, out))
    q.stop(run(functions.read_to, q, out) for _ in range(2))
    q.stop([])
    assert q.empty()


def test_stop_ends_threads_too(kind):
    q, out = qmill.Q(kind), qmill.Q("thread")
    crew = [qmill.run_thread(functions.read_to, q, out) for _ in range(3)]
    q.put_many(range(9))
    q.stop(crew)
    assert sorted(data_of(out.items())) == list(range(9))


def test_stop_raises_one_failure_as_itself(method, run):
    q = qmill.Q()
    q.put("one failure")
    with pytest.raises(ValueError, match="one failure") as info:
        q.stop([run(functions.read_and_fail, q)])
    assert isinstance(info.value.__cause__, RemoteTraceback)
    assert data_of(q.items()) == ["one failure"]  # it came back, and no END is left over


def test_stop_raises_several_failures_as_a_group(method, run):
    q = qmill.Q()
    q.put_many(["one", "two"])
    crew = [run(functions.read_and_fail, q), run(functions.read_and_fail, q)]
    with pytest.raises(ExceptionGroup) as info:
        q.stop(crew)
    assert {type(error) for error in info.value.exceptions} == {ValueError}
    assert {str(error) for error in info.value.exceptions} <= {"one", "two"}
    assert data_of(q.items()) == ["one", "two"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_ends_politely_gives_its_message_back(method, run, number):
    q, ready, gate = qmill.Q(), qmill.Queue(), qmill.Queue()
    q.put("in hand")
    worker = run(functions.read_and_hold_politely, q, ready, gate)
    assert ready.get(timeout=LIMIT_S) == "in hand"
    os.kill(worker.pid, number)
    worker.join()
    q._queue._settle()
    assert (q.statistics().leased, q.statistics().redelivered) == (0, 1)
    assert q.get(block=False).data == "in hand"


def test_a_message_whose_handling_always_raises_ends_each_worker_once(method, run):
    q = qmill.Q()
    q.put("bad")
    reads = [functions.read_and_fail, functions.read_and_fail_with_an_iterator] * 2
    with pytest.raises(ExceptionGroup) as info:
        q.stop([run(read, q) for read in reads])
    assert [str(error) for error in info.value.exceptions] == ["bad"] * 4
    assert (q.statistics().poisoned, q.statistics().redelivered) == (0, 4)
    assert q.get(block=False).data == "bad"


def test_stop_with_a_dead_worker(method, run):
    q, out, ready, gate = qmill.Q(), qmill.Q(), qmill.Queue(), qmill.Queue()
    dead = run(functions.tell_and_wait, ready, gate)
    alive = run(functions.ready_read_to, q, out, ready)
    ready.get_many(1)
    ready.get()
    dead.kill()
    dead.join()
    q.put_many(range(5))
    with pytest.raises(qmill.WorkerDied) as info:
        q.stop([dead, alive])
    assert info.value.pid == dead.pid
    assert data_of(out.items()) == list(range(5))
    assert q.empty()


def test_stop_with_all_workers_dead(method, run):
    q, out = qmill.Q(), qmill.Q()
    crew = [run(functions.read_until_killed, q, out) for _ in range(2)]
    q.put_many(["deadly", "deadly", "left"])
    for worker in crew:
        worker.join()
    with pytest.raises(ExceptionGroup) as info:
        q.stop(crew)
    assert [type(error) for error in info.value.exceptions] == [qmill.WorkerDied] * 2
    # Nothing is lost, and no END is left over.
    assert data_of(q.items()) == ["deadly", "deadly", "left"]


def test_stop_with_workers_that_die_meanwhile(method, run):
    q, out, ready, gate = qmill.Q(), qmill.Q(), qmill.Queue(), qmill.Queue()
    crew = [run(functions.read_and_hold_at, "held", q, out, ready, gate) for _ in range(2)]
    q.put_many(["held", "held", 1, 2])
    pids = {ready.get(), ready.get()}
    assert pids == {worker.pid for worker in crew}
    stop = Call(q.stop, crew).wait_until_blocked()
    for worker in crew:
        worker.kill()
    with pytest.raises(ExceptionGroup):
        stop.result()
    assert data_of(q.items()) == ["held", "held", 1, 2]


def test_stop_with_workers_that_returned_early(method, run):
    q = qmill.Q()
    q.put_many(range(4))
    crew = [run(functions.read_one, q) for _ in range(2)]
    q.stop(crew)
    assert sorted(worker.result() for worker in crew) == [0, 1]
    assert data_of(q.items()) == [2, 3]


def test_stop_needs_no_room_in_a_full_queue(method, run):
    q, out, gate = qmill.Q(maxsize=2), qmill.Q(), qmill.Queue()
    worker = run(functions.gated_read, q, out, gate)
    q.put_many(range(2))
    assert q.full()
    stop = Call(q.stop, worker)
    wait_until(lambda: q.qsize() == 3)
    gate.put("open")
    assert stop.result() is q
    assert data_of(out.items()) == [0, 1]


def test_stop_joins_workers_that_have_put_much(method, run):
    """PAINS 4: join before drain deadlocks."""
    q, out = qmill.Q(), qmill.Q()
    q.stop([run(functions.put_large, out, 8, 200_000)])
    assert sum(len(message.data) for message in out.items()) == 1_600_000


def test_stop_twice(method, run):
    q, out = qmill.Q(), qmill.Q()
    worker = run(functions.read_to, q, out)
    assert q.stop(worker).stop(worker) is q
    assert q.empty()
