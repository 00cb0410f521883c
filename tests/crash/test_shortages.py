"""Limits that are met while something is sent: the error names the limit, and work goes on."""

from __future__ import annotations

import errno
import os
import resource

import pytest

import qmill

from .programs import LIMIT_S

SIZES = [100_000, 20 << 20]
"""What goes through shared memory, and what goes in a file of its own."""


class Hog:
    """All descriptors that a process may have."""

    def __init__(self):
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.held = []

    def take_all(self):
        """Leave this process no descriptor."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, self.limits[1]))
        try:
            while True:
                self.held.append(os.dup(2))
        except OSError:
            pass

    def give_back(self):
        """Have them all back."""
        while self.held:
            os.close(self.held.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)


hog = Hog()


def without_descriptors(size):
    hog.take_all()
    return bytes(size)


def give_back():
    hog.give_back()


def limit_files(size):
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (1 << 16, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )
    return bytes(size)


def limit_memory(size):
    """Leave room for a result, but not for its packed form."""
    data = bytes(size)
    with open("/proc/self/statm", "rb") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = (used + size // 2, resource.getrlimit(resource.RLIMIT_AS)[1])
    resource.setrlimit(resource.RLIMIT_AS, limits)
    return data


def limit_files_of_one(size):
    return limit_files(size) if size > 10 else bytes(size)


def raise_large(size):
    limit_files(0)
    raise ValueError(b"x" * size)


SHORT = {
    limit_files: (errno.EFBIG, "RLIMIT_FSIZE is 65536.*raise that limit"),
    without_descriptors: (errno.EMFILE, "RLIMIT_NOFILE.*raise that limit"),
}


def check(error, number, words):
    assert isinstance(error, OSError), repr(error)
    assert error.errno == number
    with pytest.raises(OSError, match=words):
        raise error


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("limit", SHORT)
def test_the_result_of_a_worker(method, run, limit, size):
    worker = run(limit, size)
    check(worker.exception(LIMIT_S), *SHORT[limit])
    worker.join(LIMIT_S)
    assert worker.exitcode == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("limit", SHORT)
def test_the_result_of_a_job(method, limit, size):
    with qmill.JobQueue(1) as jobs:
        before = jobs.submit(os.getpid).result(LIMIT_S)
        check(jobs.submit(limit, size).exception(LIMIT_S), *SHORT[limit])
        assert jobs.submit(os.getpid).result(LIMIT_S) == before  # it lives on


@pytest.mark.parametrize("chunksize", [1, 4])
def test_the_result_of_one_call_of_a_map(method, chunksize):
    outcomes = qmill.map(
        limit_files_of_one,
        [1, 20 << 20, 2],
        max_workers=1,
        chunksize=chunksize,
        return_exceptions=True,
    )
    first, error, last = outcomes
    assert (len(first), len(last)) == (1, 2)
    check(error, errno.EFBIG, "RLIMIT_FSIZE")


def test_an_exception_that_is_too_large(method, run):
    error = run(raise_large, 20 << 20).exception(LIMIT_S)
    check(error, errno.EFBIG, "RLIMIT_FSIZE")
    with qmill.JobQueue(1) as jobs:
        check(jobs.submit(raise_large, 20 << 20).exception(LIMIT_S), errno.EFBIG, "RLIMIT_FSIZE")
        assert jobs.submit(abs, -1).result(LIMIT_S) == 1


def test_no_memory_for_the_packed_form_of_a_result(method, run):
    worker = run(limit_memory, 256 << 20)
    with pytest.raises(qmill.SerializationError, match="no memory left.*smaller parts"):
        worker.result(LIMIT_S)
    with qmill.JobQueue(1) as jobs:
        before = jobs.submit(os.getpid).result(LIMIT_S)
        with pytest.raises(qmill.SerializationError, match="no memory left.*smaller parts"):
            jobs.submit(limit_memory, 256 << 20).result(LIMIT_S)
        assert jobs.submit(os.getpid).result(LIMIT_S) == before


@pytest.mark.parametrize("size", SIZES)
def test_arguments_for_which_the_worker_has_no_descriptor(method, size):
    with qmill.JobQueue(1) as jobs:
        jobs.submit(without_descriptors, 0).result(LIMIT_S)
        error = jobs.submit(len, bytes(size)).exception(LIMIT_S)
        check(error, errno.EMFILE, "was sent here needs a descriptor.*RLIMIT_NOFILE")
        jobs.submit(give_back).result(LIMIT_S)
        assert jobs.submit(len, bytes(size)).result(LIMIT_S) == size


PARENT = """
from tests.crash.test_shortages import bytes_of, hog
with qmill.JobQueue(1) as jobs:
    jobs.submit(abs, 1).result()
    gate = qmill.Queue()
    call = {start}(bytes_of, {size}, gate)
    hog.take_all()
    gate.put(1)
    error = call.exception()
    hog.give_back()
    tell(type(error).__name__, getattr(error, "errno", ""), "RLIMIT_NOFILE" in str(error))
    tell(len(jobs.submit(bytes, {size}).result()))
"""


def bytes_of(size, gate):
    gate.get()
    return bytes(size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", ["jobs.submit", "qmill.run"])
def test_results_for_which_the_program_has_no_descriptor(start_program, start, size):
    program = start_program(PARENT.format(start=start, size=size))
    assert program.hear() == ["OSError", str(errno.EMFILE), "True"]
    assert program.hear() == [str(size)]
    assert program.finish() == ("", "")


def test_arguments_that_are_larger_than_a_file_may_be(start_program):
    program = start_program(
        """
import resource
with qmill.JobQueue(1) as jobs:
    data = bytes(20 << 20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    error = jobs.submit(len, data).exception()
    tell(error.errno, "RLIMIT_FSIZE is 1048576" in str(error))
    tell(jobs.submit(len, b"x").result())
"""
    )
    assert program.hear() == [str(errno.EFBIG), "True"]
    assert program.hear() == ["1"]
    assert program.finish() == ("", "")
