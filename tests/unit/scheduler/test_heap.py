"""`JobHeap`: a heap from which jobs can be removed."""

from __future__ import annotations

import itertools

from qmill.jobs.scheduler import JobHeap


def test_an_empty_heap():
    heap = JobHeap()
    assert heap.size == 0
    assert list(heap) == []
    assert heap.first() is None
    assert heap.first_key() is None


def test_a_heap_gives_jobs_by_key_then_by_number(bench):
    heap = JobHeap()
    jobs = [bench.make(name) for name in "abcdef"]
    for key, job in zip([3, 1, 3, 2, 1, 2], jobs, strict=True):
        heap.push(key, job)
    assert heap.size == 6
    assert heap.first().name == "b"
    assert heap.first_key() == 1
    assert heap.size == 6
    assert [heap.pop().name for _ in range(6)] == list("bedfac")
    assert heap.size == 0


def test_any_job_can_be_taken_out_of_a_heap(bench):
    for kept in itertools.product([False, True], repeat=5):
        heap = JobHeap()
        jobs = [bench.make(name) for name in "abcde"]
        for job in jobs:
            heap.push(0, job)
        for keep, job in zip(kept, jobs, strict=True):
            if not keep:
                heap.discard(job)
        left = [job for keep, job in zip(kept, jobs, strict=True) if keep]
        assert heap.size == len(left)
        assert [job in heap for job in jobs] == list(kept)
        assert set(heap) == set(left)
        assert heap.first() is (left[0] if left else None)
        assert [heap.pop() for _ in left] == left


def test_a_job_is_in_the_heap_into_which_it_was_put(bench):
    one, other = JobHeap(), JobHeap()
    job = bench.make("a")
    assert job not in one
    one.push(1, job)
    assert job in one
    assert job not in other
    one.discard(job)
    other.push(2, job)
    assert job not in one
    assert job in other
    assert (one.first(), one.first_key()) == (None, None)
    assert other.first_key() == 2


def test_a_job_that_comes_back_to_a_heap_counts_once(bench):
    heap = JobHeap()
    job, other = bench.make("a"), bench.make("b")
    heap.push(5, other)
    for key in [9, 1, 7, 1, 9]:
        heap.push(key, job)
        assert heap.size == 2
        assert heap.first() is (job if key < 5 else other)
        heap.discard(job)
    heap.push(1, job)
    assert [heap.pop(), heap.pop()] == [job, other]
    assert heap.first() is None
