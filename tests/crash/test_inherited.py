"""What multiprocessing can share, as arguments of workers and of initializers, and nowhere else."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import os
import subprocess
import sys
import threading

import pytest

import qmill
from qmill import errors, processes

from . import things
from .programs import LIMIT_S, ROOT, descriptors
from .things import THINGS

CONTEXTS = ["fork", "spawn", "forkserver", None]
OTHER_METHODS = [method for method in processes.METHODS if method != "fork"]
FORK_LOCK = "lock of a fork context"


def is_fork(context):
    return multiprocessing.get_context(context).get_start_method() == "fork"


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", THINGS)
def test_each_context_with_each_start_method(name, context, method):
    thing = THINGS[name]
    there, here = thing.make(multiprocessing.get_context(context))
    start = functools.partial(qmill.Worker, things.use, start_method=method)
    if thing.has_lock and is_fork(context) and method != "fork":
        with pytest.raises(RuntimeError, match=r"fork context.*start_method='fork'") as info:
            start((name,), {"thing": there})
        assert isinstance(info.value, qmill.SerializationError)
        return
    worker = start((name,), {"thing": there})
    assert thing.is_seen(here, worker.result)


@pytest.mark.parametrize("name", THINGS)
def test_as_an_argument_of_an_initializer(name, method):
    thing = THINGS[name]
    there, here = thing.make(multiprocessing.get_context("spawn"))
    with qmill.JobQueue(1, initializer=things.initialize, initargs=(name, there)) as jobs:
        job = jobs.submit(things.use_given)
        assert thing.is_seen(here, job.result)


@pytest.mark.parametrize("name", THINGS)
def test_as_an_argument_of_a_thread(name):
    thing = THINGS[name]
    there, here = thing.make(multiprocessing.get_context("spawn"))
    worker = qmill.run_thread(things.use, name, there)
    assert thing.is_seen(here, worker.result)


def in_a_closure(name, thing):
    return lambda: things.use(name, thing)


WAYS = {
    "partial": functools.partial,
    "instance": things.Holder,
    "bound method": lambda name, thing: things.Holder(name, thing).method,
    "slots": things.SlottedHolder,
    "closure": in_a_closure,
    "partial of a closure": lambda name, thing: functools.partial(in_a_closure(name, thing)),
}
BY_WAY = {**WAYS, "partial": lambda name, thing: functools.partial(things.use, name, thing)}


@pytest.mark.parametrize("how", ["run", "initializer"])
@pytest.mark.parametrize("way", BY_WAY)
@pytest.mark.parametrize("name", ["Lock", "Value", "Pipe", "socket", "Queue"])
def test_inside_something_else(name, way, how, method):
    thing = THINGS[name]
    there, here = thing.make(multiprocessing.get_context("forkserver"))
    call = BY_WAY[way](name, there)
    if how == "run":
        qmill.run(call).result(LIMIT_S)
    else:
        with qmill.JobQueue(1, initializer=call) as jobs:
            jobs.submit(things.current_key).result(LIMIT_S)
    assert thing.seen(here)
