"""Several threads use one queue."""

from __future__ import annotations

import random

from conformance_support import Call


def use_at_random(jobs, seed):
    """Put jobs and do something to one of them now and then; return them."""
    chance, some = random.Random(seed), []

    def answer(number, is_bad):
        if is_bad:
            raise KeyError(number)
        return number

    for number in range(150):
        job = jobs.put(
            answer,
            (number, chance.random() < 0.1),
            priority=chance.randrange(5),
            lane=chance.choice([None, None, None, "a", 1]),
            retries=chance.choice([0, 0, 1]),
            stop_on_lane_error=chance.random() < 0.3,
            suppress_errors=True,
        )
        some.append(job)
        action = chance.choice(ACTIONS)
        action(jobs, chance.choice(some))
    return some


ACTIONS = [
    lambda jobs, job: job.cancel(),
    lambda jobs, job: jobs.reprioritize(job, 2.5),
    lambda jobs, job: jobs.set_workers(job.id % 3 + 1),
    lambda jobs, job: jobs.pause(),
    lambda jobs, job: jobs.start(),
    lambda jobs, job: jobs.submit(abs, -3),
    *[lambda jobs, job: None] * 20,
]


def test_every_job_ends_once_whatever_several_threads_do(make):
    called, told = [], []
    jobs = make(2, callback=called.append)
    putters = [Call(use_at_random, jobs, seed) for seed in range(4)]
    some = [job for putter in putters for job in putter.result()]
    for job in some:
        job.add_done_callback(told.append)
    jobs.start()
    getters = [Call(lambda: list(jobs.as_completed())) for _ in range(2)]
    got = [job for getter in getters for job in getter.result()]
    assert jobs.wait() == 0
    for those in (got, called, told):
        assert sorted(job.id for job in those) == sorted(job.id for job in some)
    for job in some:
        number, is_bad = job.args
        if job.state != "cancelled":
            assert (job.state, job.output) == (("failed", None) if is_bad else ("done", number))


def test_what_it_is_given_may_use_the_queue(jobs):
    """Iterables, like callbacks, are the users' own code: it runs outside all locks."""

    def generate():
        for number in range(5):
            yield jobs.submit(abs, -number).result()

    (job,) = jobs.starmap(lambda *args: args, [generate()])
    assert job.result() == (0, 1, 2, 3, 4)
    assert [job.result() for job in jobs.starmap(abs, ([n] for n in generate()))] == [0, 1, 2, 3, 4]
    assert list(jobs.map(abs, generate())) == [0, 1, 2, 3, 4]
    assert list(jobs.map(abs, generate(), buffersize=2)) == [0, 1, 2, 3, 4]
