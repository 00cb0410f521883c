"""The definitions that a worker has got, and the lesson that it needs before a job."""

from __future__ import annotations

import gc

import pytest

from qmill.engines.codec import Codec, split
from qmill.engines.knowledge import Knowledge, Lesson
from qmill.engines.learnt import Learnt
from qmill.jobs.job import DEFAULT_OPTIONS, Job
from qmill.packing import definitions
from qmill.packing.shared_values import shared

NOTHING = Lesson()
factor = 3


def scaled(number):
    return number * factor


class Owner:
    qid = "q"


@pytest.fixture
def codec():
    made = Codec(definitions.Names.INSTEAD)
    made.files = dict
    return made


def packed_job(codec, function, *args):
    job = Job(1, function, args, None, 0.0, DEFAULT_OPTIONS, Owner(), 0.0)
    codec.pack(job)
    return job


def test_a_function_is_told_once_to_each_worker(codec):
    job = packed_job(codec, scaled, 2)
    first, second = Knowledge(codec), Knowledge(codec)
    for worker in (first, second):
        assert not worker.suffices_for(job)
        assert job._subject.number in worker.lesson_for(job).functions
        assert worker.suffices_for(job)
        assert worker.lesson_for(packed_job(codec, scaled, 3)) == NOTHING


def test_a_function_that_is_gone_is_released_once(codec):
    worker = Knowledge(codec)
    worker.lesson_for(packed_job(codec, lambda: 1))
    gc.collect()
    job = packed_job(codec, lambda: 2)
    assert len(worker.lesson_for(job).gone_functions) == 1
    assert worker.lesson_for(job) == NOTHING


def test_a_shared_value_is_told_to_the_workers_that_lack_it(codec):
    handle, worker = shared("content"), Knowledge(codec)
    job = packed_job(codec, str, handle)
    assert not worker.suffices_for(job)
    assert worker.lesson_for(job).shares == {handle.key: handle}
    assert worker.suffices_for(job)
    key = handle.key
    del handle, job
    gc.collect()
    assert worker.lesson_for(packed_job(codec, str)).gone_shares == [key]


def test_what_only_a_fork_passes_on_makes_no_lesson(codec):
    job = packed_job(codec, scaled, 2)
    job._subject.packed = None
    assert Knowledge(codec).lesson_for(job) is None
    number = job._subject.number
    assert Knowledge(codec, inherited=[number]).lesson_for(job) is not None


def test_files_are_told_that_came_after_the_start_of_the_worker(codec):
    files = {"a": ("/a.py", False)}
    codec.files = lambda: files
    worker = Knowledge(codec, num_files=1)
    job = packed_job(codec, scaled, 2)
    assert worker.lesson_for(job).files == {}
    files["b"] = "/b.py", False
    assert worker.lesson_for(job).files == {"b": ("/b.py", False)}
    assert worker.lesson_for(job).files == {}


def test_a_worker_answers_with_what_it_has_learnt(codec):
    sent = []
    learnt = Learnt(
        lambda what, job, parts, *moments: sent.append((what, b"".join(parts), *moments))
    )
    job, worker = packed_job(codec, lambda number: number + 1, 2), Knowledge(codec)
    learnt.learn(worker.lesson_for(job))

    learnt.answer(*split(job._packet), None)
    ((what, data, started, ended),) = sent
    assert codec.answer(what, job, data, started, ended, "w").value == 3
