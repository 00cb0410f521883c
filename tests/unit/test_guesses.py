"""What is answered to those who guess a name, an argument or a function of another library."""

from __future__ import annotations

import asyncio
import functools
import inspect

import pytest

import qmill
from qmill.packing import guesses


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Pool", "qmill.JobQueue"),
        ("ProcessPoolExecutor", "qmill.JobQueue"),
        ("ThreadPoolExecutor", "engine='thread'"),
        ("starmap", "starmap of a JobQueue"),
        ("imap_unordered", "ordered=False"),
        ("queue", "qmill.Queue"),
        ("Process", "qmill.run"),
        ("cpu_count", "qmill.NUM_CPUS"),
    ],
)
def test_a_name_that_is_guessed_is_answered_with_the_right_one(name, meant):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; use ") as info:
        getattr(qmill, name)
    assert meant in str(info.value)
    assert info.value.name == name
    assert not hasattr(qmill, name)


def test_another_name_is_answered_without_a_guess():
    with pytest.raises(AttributeError, match=r"^module 'qmill' has no attribute 'colour'$"):
        qmill.colour  # noqa: B018


def test_what_is_said_to_be_missing_is_missing():
    assert not guesses.NAMES.keys() & set(qmill.__all__)
    made = (qmill.JobQueue.__init__, qmill.JobQueue.map, qmill.map)
    accepted = [guesses.arguments_of(function) for function in made]
    assert not guesses.ARGUMENTS.keys() & (accepted[0] | accepted[1] | accepted[2])
    assert set(guesses.ARGUMENTS.values()) <= accepted[0] | accepted[2]


@pytest.mark.parametrize("guess", ["n_jobs", "workers", "processes", "max_worker", "num_workers"])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("JobQueue", lambda **given: qmill.JobQueue(**given)),
        ("map", lambda **given: qmill.map(abs, [1], **given)),
        ("parallel", lambda **given: qmill.parallel(**given)),
        ("parallel", lambda **given: qmill.parallel(abs, **given)),
    ],
)
def test_a_number_of_workers_under_another_name(name, call, guess):
    with pytest.raises(TypeError) as info:
        call(**{guess: 4})
    told = f"{name}() got an unexpected keyword argument '{guess}': here it is max_workers"
    assert str(info.value) == told


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: qmill.JobQueue(maxtasksperchild=1), "max_jobs_per_worker"),
        (lambda: qmill.JobQueue(backend="threading"), "engine"),
        (lambda: qmill.JobQueue(max_size=3), "maxsize"),
        (lambda: qmill.map(abs, [1], chunk_size=3), "chunksize"),
        (lambda: qmill.JobQueue(1, auto_start=False).map(abs, [1], priority=3), "jobs.options"),
    ],
)
def test_other_arguments_under_other_names(call, told):
    with pytest.raises(TypeError, match=f"unexpected keyword argument.*here it is .*{told}"):
        call()


def test_an_unknown_argument_is_refused_as_python_does():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'$"):
        qmill.map(abs, [1], colour=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_tasks_per_child'$"):
        qmill.map(abs, [1], max_tasks_per_child=1)  # which it has under no name


def test_signatures_are_those_of_what_is_checked():
    assert "max_workers" in inspect.signature(qmill.JobQueue).parameters
    assert "job_timeout" in inspect.signature(qmill.map).parameters


@pytest.mark.parametrize(
    ("engine", "meant"),
    [
        ("threads", "'thread'"),
        ("Threading", "'thread'"),
        ("thread pool", "'thread'"),
        ("ThreadPoolExecutor", "'thread'"),
        ("processes", "'process'"),
        ("multiprocessing", "'process'"),
        ("dask", "qmill.engines.Dask()"),
        (qmill.JobQueue, "JobQueue()"),
    ],
)
def test_an_engine_under_another_name(engine, meant):
    with pytest.raises(ValueError, match="engine must be 'process', 'thread' or") as info:
        qmill.JobQueue(engine=engine)
    assert str(info.value).endswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: qmill.JobQueue(0), "max_workers must be greater than 0; got 0"),
        (lambda: qmill.JobQueue(-1), "None is as many as there are processors"),
        (lambda: qmill.map(abs, [1], max_workers=-1), "max_workers must be greater than 0"),
        (lambda: qmill.JobQueue(max_memory_per_worker="1GB"), "int of bytes, such as 1 << 30"),
        (lambda: qmill.JobQueue(1).put(abs, 1, timeout="5s"), "timeout must be a number of sec"),
        (lambda: qmill.JobQueue(1).options(backoff="1s"), "backoff must be a number of seconds"),
    ],
)
def test_values_of_another_kind(make, told):
    with pytest.raises((TypeError, ValueError)) as info:
        make()
    assert told in str(info.value)


# -- functions ------------------------------------------------------------------------------------


async def fetch(x=0):
    return x


async def stream(x=0):
    yield x


class Fetcher:
    async def __call__(self, x=0):
        return x

    async def fetch(self, x=0):
        return x

    @staticmethod
    async def fetch_static(x=0):
        return x


ASYNCHRONOUS = {
    "function": fetch,
    "generator": stream,
    "partial": functools.partial(fetch),
    "partial of a partial": functools.partial(functools.partial(fetch), 1),
    "callable": Fetcher(),
    "partial of a callable": functools.partial(Fetcher(), 1),
    "method": Fetcher().fetch,
    "partial of a method": functools.partial(Fetcher().fetch, 1),
    "static method": Fetcher.fetch_static,
    "unbound": staticmethod(fetch),
}
WAYS = {
    "put": lambda function: qmill.JobQueue(1).put(function),
    "submit": lambda function: qmill.JobQueue(1, engine="thread").submit(function),
    "options": lambda function: qmill.JobQueue(1).options(priority=1).submit(function),
    "jobs.map": lambda function: qmill.JobQueue(1).map(function, [1]),
    "starmap": lambda function: qmill.JobQueue(1).starmap(function, [()]),
    "map": lambda function: qmill.map(function, [1]),
    "run": qmill.run,
    "run_thread": qmill.run_thread,
    "parallel": qmill.parallel,
    "initializer": lambda function: qmill.JobQueue(1, initializer=function),
    "callback": lambda function: qmill.JobQueue(1, callback=function),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("function", ASYNCHRONOUS.values(), ids=ASYNCHRONOUS)
def test_an_asynchronous_function_is_refused_with_what_to_do(way, function):
    with pytest.raises(TypeError, match="must be an ordinary function, not the asynch") as info:
        way(function)
    assert "return asyncio.run(" in str(info.value)


class Sync:
    def __call__(self, x=0):
        return -x

    def method(self, x=0):
        return -x


@pytest.mark.parametrize(
    "function",
    [abs, int, Sync(), Sync().method, functools.partial(Sync(), 1), functools.lru_cache(abs), Sync],
)
def test_other_functions_are_not(function):
    guesses.check_function("function", function)


@pytest.mark.parametrize(
    "way", [WAYS[name] for name in ("put", "submit", "jobs.map", "map", "run")]
)
@pytest.mark.parametrize("value", [abs(-3), "abs", None, [1] * 100_000], ids=[*"3sNl"])
def test_the_result_of_a_call_in_place_of_the_function(way, value):
    with pytest.raises(
        TypeError, match="give the function itself and, separately, its arg"
    ) as info:
        way(value)
    assert f"must be callable, not {type(value).__name__}" in str(info.value)
    assert len(str(info.value)) < 400


def test_an_option_that_was_meant_for_the_job_is_told_with_its_failure():
    def square(x):
        return x * x

    with qmill.JobQueue(2, engine="thread") as jobs:
        for function in (square, abs, int):
            error = jobs.submit(function, 2, priority=1).exception()
            assert type(error) is TypeError
            assert error.__notes__ == [
                "submit gives priority= to the function, as all its arguments; as an option of the "
                "job it is jobs.options(priority=1).submit(...)"
            ]
        for job in (jobs.submit(square, 2, colour=1), jobs.put(square, 2, {"priority": 1})):
            assert not hasattr(job.exception(), "__notes__")
        assert jobs.submit(dict, priority=1).result() == {"priority": 1}


def test_awaiting_a_job_tells_how_it_is_done():
    async def wait_for(job):
        return await job

    async def wrap(job):
        return await asyncio.wrap_future(job)

    with qmill.JobQueue(1, engine="thread") as jobs:
        job = jobs.submit(abs, -1)
        with pytest.raises(TypeError, match=r"await asyncio\.wrap_future\(job\)"):
            asyncio.run(wait_for(job))
        assert asyncio.run(wrap(job)) == 1


def test_putting_after_the_end_tells_what_has_ended():
    with qmill.JobQueue(1) as jobs:
        pass
    with pytest.raises(RuntimeError, match=r"after shutdown.*`with` block.*make another queue"):
        jobs.put(abs, -1)


@pytest.mark.parametrize(
    ("method", "arguments"), [("put", (abs,)), ("map", (abs, [1])), ("wait", ())]
)
def test_pythons_own_errors_name_the_class_that_users_know(method, arguments):
    with qmill.JobQueue(1, engine="thread") as jobs:
        with pytest.raises(TypeError, match=rf"^JobQueue\.{method}\(\) got an unexpected keyword "):
            getattr(jobs, method)(*arguments, colour=1)
