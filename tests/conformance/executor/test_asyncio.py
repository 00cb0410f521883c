"""Jobs under asyncio."""

from __future__ import annotations

import asyncio
import operator

import pytest

from .failing import fail


def test_a_job_can_be_awaited(jobs):
    async def main():
        with pytest.raises(KeyError, match="a key"):
            await asyncio.wrap_future(jobs.submit(fail))
        return await asyncio.wrap_future(jobs.submit(pow, 2, 5))

    assert asyncio.run(main()) == 32


def test_an_event_loop_runs_on_while_jobs_do(jobs, gate):
    async def main():
        held = asyncio.get_running_loop().run_in_executor(jobs, gate.hold)
        quick = await asyncio.get_running_loop().run_in_executor(jobs, pow, 2, 5)
        gate.permits.put("held")
        return quick, await held

    assert asyncio.run(main()) == (32, "held")


def test_many_jobs_of_an_event_loop(jobs):
    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(jobs, operator.neg, number) for number in range(50))
        )

    assert asyncio.run(main()) == [-number for number in range(50)]


def test_cancelling_in_asyncio_cancels_the_job(make):
    jobs = make(1, auto_start=False)
    job = jobs.submit(int)

    async def main():
        future = asyncio.wrap_future(job)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())
    assert job.cancelled()


def test_cancelling_a_job_cancels_it_in_asyncio(make):
    jobs = make(1, auto_start=False)
    job = jobs.submit(int)

    async def main():
        future = asyncio.wrap_future(job)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(main())
