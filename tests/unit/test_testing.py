"""The kill kit itself: what it kills, and that it finds what is lost, late, made up or left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

import qmill
from qmill import testing
from qmill.testing import _leftovers
from tests.limits import _no_test_hangs  # noqa: F401 (a fixture)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


# -- killed at an operation -----------------------------------------------------------------------


def move_two(source):
    source.put(source.get() + 1)
    source.put(source.get() + 1)


def two_numbers():
    queue = qmill.Queue()
    queue.put_many([10, 20])
    return queue


@pytest.mark.parametrize(
    ("after", "left"),
    [
        (False, [[10, 20], [20], [20, 11], [11]]),
        (True, [[20], [20, 11], [11], [11, 21]]),
    ],
)
def test_each_operation_is_the_last_one_once(after, left):
    found = []
    for number, death in enumerate(testing.each_death(move_two, two_numbers, after=after), 1):
        assert death.operation == number
        found.append(death.queue.get_many(5))
    assert found == left


def test_a_death_at_a_step_of_a_loop():
    def read_all(q):
        for message in q:
            out.put(message.data)

    def one_and_an_end():
        return qmill.Q().put("there").end()

    out = qmill.Queue()
    queues = [death.queue for death in testing.each_death(read_all, one_and_an_end)]
    assert [[message.data for message in q] for q in queues] == [["there"], ["there"]]
    assert out.get_many(5) == ["there", "there"]  # by the one killed at its second step


def shrink_twice(queue):
    queue.maxsize = 2
    queue.maxsize = 1


def test_the_error_of_the_work_is_raised():
    def fail(queue):
        raise LookupError("of the work")

    with pytest.raises(LookupError, match="of the work"):
        list(testing.each_death(fail, qmill.Queue))


def test_work_that_hangs_is_killed_and_told():
    deaths = testing.each_death(lambda queue: queue.get(), qmill.Queue, patience_s=3.0)
    assert next(deaths).operation == 1
    with pytest.raises(TimeoutError, match="operation 2"):
        next(deaths)


def test_a_stand_in_is_sent_and_counts_anew():
    mortal = testing.kill_at(qmill.Queue(), 3)
    mortal.put(1)
    mortal.put(2)
    worker = qmill.Worker(move_two, (mortal,), start_method="forkserver")
    assert worker.exception(30).signal == signal.SIGKILL
    assert mortal._queue.get_many(5) == [2, 2]
    assert mortal.maxsize == 0


def test_what_is_set_of_a_stand_in_is_set_of_its_queue():
    queue = qmill.Queue(1)
    mortal = testing.kill_at(queue, 2)
    mortal.maxsize = 3
    assert (queue.maxsize, mortal.maxsize) == (3, 3)
    worker = qmill.Worker(shrink_twice, (testing.kill_at(queue, 2),), start_method="fork")
    assert worker.exception(30).signal == signal.SIGKILL
    assert queue.maxsize == 2


def test_a_stand_in_of_a_queue_of_the_standard_library():
    queue = multiprocessing.SimpleQueue()
    worker = qmill.Worker(
        lambda queue: [queue.put(1), queue.put(2)],
        (testing.kill_at(queue, 2),),
        start_method="fork",
    )
    assert worker.exception(30).signal == signal.SIGKILL
    assert queue.get() == 1
    assert queue.empty()
    queue.close()


def test_operations_are_counted_from_one():
    with pytest.raises(ValueError, match="operation must be 1 or more, not 0"):
        testing.kill_at(qmill.Queue(), 0)


# -- storms ---------------------------------------------------------------------------------------


class Faulty:
    """A queue on which a message in fifty meets with something."""

    def __init__(self, fault):
        self._queue = qmill.Queue()
        self._fault = fault

    def put(self, item):
        producer, number, data = item
        if self._fault == "loses" and number % 50 == 7:
            return
        if self._fault == "corrupts" and number % 50 == 7:
            item = producer, number, data + 1
        if self._fault == "garbles" and number % 50 == 7:
            item = "not what anybody put"
        if self._fault == "makes up" and number % 50 == 7:
            self._queue.put((producer, number + 1_000_000, data + 1_000_000))
        if self._fault == "duplicates" and number % 50 == 7:
            self._queue.put(item)
        if self._fault == "reorders" and number % 50 == 7:
            self._kept = item
            return
        self._queue.put(item)
        if self._fault == "reorders" and number % 50 == 8:
            self._queue.put(self._kept)

    def get(self):
        return self._queue.get()


@pytest.mark.parametrize(
    ("fault", "count"),
    [
        ("loses", "lost"),
        ("corrupts", "corrupt"),
        ("garbles", "corrupt"),
        ("makes up", "invented"),
        ("duplicates", "duplicated"),
        ("reorders", "overtaken"),
    ],
)
def test_a_storm_finds_what_a_faulty_queue_does(fault, count):
    report = testing.storm(Faulty(fault), kills=4, consumers=1, seed=1)
    assert getattr(report, count) > report.killed_consumers
    with pytest.raises(AssertionError, match=f"{count}.*seed=1"):
        report.assert_at_most_once()
    with pytest.raises(AssertionError, match=f"{count}.*seed=1"):
        report.assert_at_least_once()


def test_a_storm_counts_its_kills_and_prints_its_seed(capsys):
    report = testing.storm(qmill.Queue(), kills=6, producers=1, consumers=2)
    report.assert_at_most_once()
    assert f"seed={report.seed}\n" in capsys.readouterr().out
    assert 6 <= report.killed_producers + report.killed_consumers <= 6 + 3
    assert report.put > 0
    assert report.hung is None


@pytest.mark.parametrize("ending", ["kill", "interrupt", "terminate", "exec"])
def test_a_storm_ends_processes_as_it_is_told(ending):
    with testing.nothing_left_behind():
        report = testing.storm(qmill.Queue(), kills=3, seed=1, endings=[ending], patience_s=30)
    report.assert_at_most_once()


def test_a_storm_names_the_endings_that_there_are():
    with pytest.raises(ValueError, match="endings must be of kill, interrupt.*not \\['gently'\\]"):
        testing.storm(qmill.Queue(), endings=["kill", "gently"])


def test_a_storm_on_which_nobody_makes_progress_is_told_and_over():
    class Stuck:
        def put(self, item):
            threading.Event().wait()

        def get(self):
            threading.Event().wait()

    with testing.nothing_left_behind():
        report = testing.storm(Stuck(), kills=1, patience_s=0.5)
    assert "no progress" in report.hung
    assert "producer 1 (pid" in report.hung
    with pytest.raises(AssertionError, match="no progress"):
        report.assert_at_most_once()


def test_the_error_of_a_producer_is_raised():
    class Closed:
        def put(self, item):
            raise LookupError("no way in")

        def get(self):
            threading.Event().wait()

    with testing.nothing_left_behind():
        with pytest.raises(LookupError, match="no way in"):
            testing.storm(Closed(), kills=1)


# -- what is left ---------------------------------------------------------------------------------


def leave_process():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    return lambda: (process.stdin.close(), process.wait())


def leave_orphan():
    """A process whose parent is gone, that nobody is an ancestor of."""
    program = "import os; os.fork() or os.execlp('sleep', 'sleep', '1000')"
    subprocess.run([sys.executable, "-c", program], check=True)
    return lambda: None


def leave_thread():
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    return lambda: (over.set(), thread.join())


def leave_descriptor():
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours.close


def leave_shared_memory():
    path = _leftovers._SHARED_MEMORY / "segment"
    path.touch()
    return path.unlink


def leave_named_queue():
    queue = qmill.Queue(name="left behind", persistent=True)
    queue.put(1)
    queue.close()
    return lambda: qmill.Queue(name="left behind", persistent=True).unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in Linux's /proc")
@pytest.mark.parametrize(
    ("leave", "told"),
    [
        (leave_process, r"process \d+: .*input"),
        (leave_orphan, r"process \d+: sleep 1000"),
        (leave_thread, "thread <Thread"),
        (leave_descriptor, r"descriptor \d+: socket"),
        (leave_shared_memory, "file .*/shm/segment"),
        (leave_named_queue, r"file .*/names/"),
    ],
)
def test_what_is_left_behind_is_told(leave, told, tmp_path, monkeypatch):
    shared_by_nobody = tmp_path / "shm"
    shared_by_nobody.mkdir()
    monkeypatch.setattr(_leftovers, "_SHARED_MEMORY", shared_by_nobody)
    clean_up = None
    try:
        with pytest.raises(AssertionError, match=told):
            with testing.nothing_left_behind(grace_s=0.1):
                clean_up = leave()
    finally:
        clean_up()


@pytest.mark.skipif(not qmill.core_info().core, reason="needs queues in shared memory")
def test_a_queue_that_is_held_is_told(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")
    with pytest.raises(AssertionError, match=r"descriptor \d+: /memfd:qmill"):
        with testing.nothing_left_behind():
            kept = qmill.Queue()
    kept.close()


def test_what_ends_in_time_is_not_left():
    with testing.nothing_left_behind():
        go = threading.Event()
        thread = threading.Thread(target=go.wait)
        thread.start()
        assert qmill.run(pow, 2, 3).result() == 8
        threading.Timer(0.1, go.set).start()


def test_what_was_there_before_is_not_left():
    clean_up = leave_process(), leave_thread(), leave_descriptor()
    with testing.nothing_left_behind():
        pass
    for each in clean_up:
        each()


def test_the_error_of_the_block_comes_first():
    ends = []
    with pytest.raises(LookupError):
        with testing.nothing_left_behind():
            ends.append(leave_thread())
            raise LookupError
    ends[0]()
