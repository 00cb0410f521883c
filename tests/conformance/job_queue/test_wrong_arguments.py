"""Wrong arguments are refused, with the remedy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import qmill

NAN = float("nan")

WRONG_MAKING = [
    ("max_workers", 0, ValueError),
    ("max_workers", -1, ValueError),
    ("max_workers", "2", TypeError),
    ("max_workers", 1.5, TypeError),
    ("engine", "fork", ValueError),
    ("engine", 3, (TypeError, ValueError)),
    ("maxsize", "1", TypeError),
    ("maxsize", 1.5, TypeError),
    ("initializer", 3, TypeError),
    ("initargs", 3, TypeError),
    ("callback", 3, TypeError),
    ("log_file", 3.5, TypeError),
    ("start_method", "spoon", ValueError),
    ("start_method", 3, (TypeError, ValueError)),
    ("mp_context", "fork", TypeError),
    ("max_jobs_per_worker", 0, ValueError),
    ("max_jobs_per_worker", "1", TypeError),
    ("max_memory_per_worker", 0, ValueError),
    ("max_memory_per_worker", "1", TypeError),
]


def ids_of(table):
    return [f"{row[0]}={row[1]!r}" for row in table]


@pytest.mark.parametrize(("name", "value", "error"), WRONG_MAKING, ids=ids_of(WRONG_MAKING))
def test_wrong_arguments_of_a_queue(name, value, error):
    with pytest.raises(error, match=name):
        qmill.JobQueue(**{name: value})


@pytest.mark.parametrize("number", [0, -1, -(10**30)])
def test_too_few_workers_are_refused_in_the_words_of_executors(engine, number):
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        qmill.JobQueue(number, engine=engine)
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        list(qmill.map(abs, [1], max_workers=number, engine=engine))


@pytest.mark.parametrize("name", ["max_jobs_per_worker", "max_memory_per_worker", "start_method"])
def test_threads_refuse_what_only_processes_can(name):
    value = "fork" if name == "start_method" else 1000
    with pytest.raises(qmill.NotSupported, match="process"):
        qmill.JobQueue(engine="thread", **{name: value})


ELSEWHERE = """
import socket
for name in ["send_fds", "recv_fds", "MSG_DONTWAIT"]:
    delattr(socket, name)
import qmill
for call in [qmill.JobQueue, lambda: list(qmill.map(abs, [1])), lambda: qmill.run(abs, 1)]:
    try:
        call()
    except qmill.NotSupported as error:
        assert "POSIX" in str(error) and "thread" in str(error)
        print("refused")
with qmill.JobQueue(1, engine="thread") as jobs:
    print(jobs.submit(abs, -1).result())
"""


def test_processes_are_refused_where_the_system_cannot_start_them():
    """As on Windows, whose sockets carry no descriptors."""
    told = subprocess.check_output([sys.executable, "-c", ELSEWHERE], text=True)
    assert told.split() == ["refused", "refused", "refused", "1"]


def test_unknown_arguments():
    with pytest.raises(TypeError):
        qmill.JobQueue(workers=3)
    with pytest.raises(TypeError):
        qmill.JobQueue(2, "process")


WRONG_OPTIONS = [
    ("priority", "1", TypeError),
    ("priority", None, TypeError),
    ("priority", NAN, ValueError),
    ("lane", [], TypeError),
    ("timeout", "1", TypeError),
    ("timeout", -1, ValueError),
    ("timeout", NAN, ValueError),
    ("retries", -1, ValueError),
    ("retries", 1.5, TypeError),
    ("retries", "1", TypeError),
    ("retries", None, TypeError),
    ("retries", "", TypeError),
    ("backoff", -1, ValueError),
    ("backoff", "1", TypeError),
    ("backoff", None, TypeError),
    ("backoff", NAN, ValueError),
]

WAYS_TO_PUT = {
    "put": lambda jobs, **options: jobs.put(int, **options),
    "starmap": lambda jobs, **options: jobs.starmap(int, [()], **options),
    "starmapkw": lambda jobs, **options: jobs.starmapkw(int, [{}], **options),
    "options": lambda jobs, **options: jobs.options(**options),
}


@pytest.mark.parametrize("way", WAYS_TO_PUT.values(), ids=WAYS_TO_PUT)
@pytest.mark.parametrize(("name", "value", "error"), WRONG_OPTIONS, ids=ids_of(WRONG_OPTIONS))
def test_wrong_options(some_queue, way, name, value, error):
    with pytest.raises(error, match=name):
        way(some_queue, **{name: value})


WRONG_CALLS = {
    "put a number": (lambda jobs: jobs.put(3), TypeError, "function"),
    "put None": (lambda jobs: jobs.put(None), TypeError, "function"),
    "put kwargs list": (lambda jobs: jobs.put(int, None, [1]), TypeError, "kwargs"),
    "put kwargs number": (lambda jobs: jobs.put(int, None, 3), TypeError, "kwargs"),
    "put unknown option": (lambda jobs: jobs.put(int, colour=1), TypeError, "colour"),
    "submit a number": (lambda jobs: jobs.submit(3), TypeError, "fn|function"),
    "map a number": (lambda jobs: jobs.map(3, [1]), TypeError, "fn|function"),
    "map no iterable": (lambda jobs: jobs.map(abs, 3), TypeError, "itera"),
    "map chunksize 0": (lambda jobs: jobs.map(abs, [1], chunksize=0), ValueError, "chunksize"),
    "map chunksize str": (lambda jobs: jobs.map(abs, [1], chunksize="1"), TypeError, "chunksize"),
    "map buffersize 0": (lambda jobs: jobs.map(abs, [1], buffersize=0), ValueError, "buffersize"),
    "map buffersize str": (
        lambda jobs: jobs.map(abs, [1], buffersize="1"),
        TypeError,
        "buffersize",
    ),
    "map timeout str": (lambda jobs: jobs.map(abs, [1], timeout="1"), TypeError, "timeout"),
    "map job_timeout str": (
        lambda jobs: jobs.map(abs, [1], job_timeout="1"),
        TypeError,
        "job_timeout",
    ),
    "map job_timeout -1": (
        lambda jobs: jobs.map(abs, [1], job_timeout=-1),
        ValueError,
        "job_timeout",
    ),
    "starmap a number": (lambda jobs: jobs.starmap(3, [()]), TypeError, "function"),
    "starmap no iterable": (lambda jobs: jobs.starmap(abs, 3), TypeError, "itera"),
    "starmapkw no dicts": (lambda jobs: jobs.starmapkw(abs, [3]), TypeError, "kwargs|mapping|dict"),
    "wait -1": (lambda jobs: jobs.wait(-1), ValueError, "n"),
    "wait str": (lambda jobs: jobs.wait("1"), TypeError, "n"),
    "wait timeout str": (lambda jobs: jobs.wait(timeout="1"), TypeError, "timeout"),
    "wait timeout nan": (lambda jobs: jobs.wait(timeout=NAN), ValueError, "timeout"),
    "get timeout str": (lambda jobs: jobs.get(timeout="1"), TypeError, "timeout"),
    "get timeout -1": (lambda jobs: jobs.get(timeout=-1), ValueError, "timeout"),
    "collect -1": (lambda jobs: jobs.collect(-1), ValueError, "n"),
    "collect str": (lambda jobs: jobs.collect("1"), TypeError, "n"),
    "set_workers 0": (lambda jobs: jobs.set_workers(0), ValueError, "n|workers"),
    "set_workers str": (lambda jobs: jobs.set_workers("1"), TypeError, "n|workers"),
    "set_workers None": (lambda jobs: jobs.set_workers(None), TypeError, "n|workers"),
    "reprioritize a number": (lambda jobs: jobs.reprioritize(3, 1), TypeError, "job"),
}


@pytest.mark.parametrize(("call", "error", "name"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_arguments(some_queue, call, error, name):
    with pytest.raises(error, match=name):
        call(some_queue)


def test_a_wrong_priority_when_reprioritizing(paused):
    job = paused.put(int)
    for priority, error in (("1", TypeError), (None, TypeError), (NAN, ValueError)):
        with pytest.raises(error, match="priority"):
            paused.reprioritize(job, priority)
    assert job.priority == 100


def test_reprioritizing_a_job_of_another_queue(make):
    one, other = make(1, auto_start=False), make(1, auto_start=False)
    job = other.put(int)
    with pytest.raises(ValueError, match="job"):
        one.reprioritize(job, 1)


def test_keyword_arguments_that_are_none_fail_the_job(jobs):
    assert type(jobs.put(dict, None, {1: 2}).exception()) is TypeError
    assert jobs.put(int).result() == 0


def test_a_generator_of_args_that_raises(some_queue):
    def generate():
        yield 1
        raise ZeroDivisionError("in the arguments")

    with pytest.raises(ZeroDivisionError):
        some_queue.starmap(int, [generate()])
    with pytest.raises(ZeroDivisionError):
        some_queue.starmap(int, (1 / 0 for _ in range(2)))
