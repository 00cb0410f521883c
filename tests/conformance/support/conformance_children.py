"""What the conformance tests run in other processes, importable there under every start method."""

from __future__ import annotations

import os
import signal
import sys
import types
from contextlib import contextmanager

import qmill


def run(channel, function, args):
    """Run a function in a `Child` and report its outcome."""
    try:
        outcome = ("returned", function(channel, *args))
    except BaseException as error:
        outcome = ("raised", error)
    channel.send(outcome)


# -- functions for a Child: the first argument is the channel to the test -------------------------


def use(channel, queue, method, *args):
    """Call one method, having said so."""
    channel.send("ready")
    return getattr(queue, method)(*args)


def hold(channel, queue):
    """Keep a handle until told otherwise."""
    channel.send(queue.qsize())
    channel.recv()


def hold_closed(channel, queue):
    """Close a handle, and stay until told otherwise."""
    queue.close()
    channel.send("closed")
    channel.recv()


def get_and_hold(channel, queue):
    """Take one object and stay, without a task_done, until told otherwise."""
    channel.send(queue.get())
    channel.recv()


def put_each(channel, queue, items):
    """Put objects, one by one."""
    for item in items:
        queue.put(item)


def take_all(channel, queue):
    """Take objects until the queue is shut down and empty."""
    return list(queue)


def pass_on(channel, inbox, outbox):
    """Put on one queue what comes on another."""
    for item in inbox:
        outbox.put(item)


def take_all_and_do(channel, queue):
    """Take objects until the queue is shut down and empty, and tell of each that it is done."""
    taken = []
    for item in queue:
        taken.append(item)
        queue.task_done()
    return taken


def look(channel, queue):
    """Look at all counts."""
    return queue.qsize(), queue.empty(), queue.full()


def answer(channel, inbox):
    """Answer on the queue that comes in a message."""
    request = inbox.get()
    request["reply"].put(request["question"].upper())


def end_before_anything_else(channel, queue, item, how):
    """Put, and end without any clean-up on the next line."""
    queue.put(item)
    DEATHS[how]()


def take_and_end(channel, queue, count, how):
    """Take objects, and end without a word about them."""
    for _ in range(count):
        queue.get()
    DEATHS[how]()


def pass_on_or_die(inbox, outbox, deadly):
    """Pass an object on, or die with it."""
    item = inbox.get()
    if item == deadly:
        _be_killed()
    outbox.put(item)
    inbox.task_done()


def put_without_end(channel, queue, item):
    """Put an object again and again."""
    channel.send("ready")
    while True:
        queue.put(item)


def _exit_at_once():
    os._exit(0)


def _be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


DEATHS = {"os._exit": _exit_at_once, "SIGKILL": _be_killed}


def get_beside_a_forked_process(channel, queue):
    """Wait in get while a forked process, which has inherited all descriptors, lives on."""
    queue.qsize()
    if os.fork() == 0:
        channel.recv()
        os._exit(0)
    return use(channel, queue, "get")


def put_a_stranger(channel, queue):
    """Put an object of a module that no other process has."""
    module = types.ModuleType("nowhere_to_be_found")
    exec("class Stranger: pass", module.__dict__)
    sys.modules[module.__name__] = module
    queue.put(module.Stranger())


def open_and_put(channel, environ, name, item):
    """Put on a queue that is known by its name."""
    os.environ.update(environ)  # a fork server has the environment of its own start
    queue = qmill.Queue(name=name)
    queue.put(item)
    queue.close()


# -- functions for pools --------------------------------------------------------------------------


def put_one(task):
    """Put the second of a pair into the first."""
    queue, item = task
    queue.put(item)


def get_one(queue):
    """Take one object."""
    return queue.get(timeout=30)


@contextmanager
def pool_of(context, workers):
    """A `multiprocessing.Pool` that ends well."""
    pool = context.Pool(workers)
    try:
        yield pool
        pool.close()
    except BaseException:
        pool.terminate()
        raise
    finally:
        pool.join()


# -- things to put --------------------------------------------------------------------------------


class Box:
    """Something with an attribute."""

    def __init__(self, content):
        self.content = content


class Unrebuildable:
    """Pickles well, and cannot be unpickled."""

    def __init__(self):
        self.state = "something to restore"

    def __setstate__(self, state):
        raise RuntimeError("refused to come back")


class Unmakeable:
    """Pickles well, and cannot be unpickled by the function that its pickle calls."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise RuntimeError("refused to come back")


class Unpicklable:
    """Says no in its own words."""

    def __reduce__(self):
        raise RuntimeError("refused to go")
