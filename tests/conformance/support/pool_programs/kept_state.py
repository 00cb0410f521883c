"""Every place in which an initializer, or a task, leaves something for the tasks of its worker."""

import builtins
import functools
import multiprocessing
import sys
import threading
from types import SimpleNamespace

mapping, sequence, members = {}, [], set()
space = SimpleNamespace(value=None)
local = threading.local()
nested = {"inner": {"deep": []}}
rebound = None
by_helper = []
count = 0


class Config:
    value = None
    options = {}

    @classmethod
    def set(cls, value):
        cls.value = value
        cls.options["set"] = value


class Store:
    def __init__(self):
        self.items = []


class Slots:
    __slots__ = ("value",)


store, slots = Store(), Slots()


def init(value):
    global rebound
    rebound = value
    mapping["key"] = value
    sequence.append(value)
    members.add(value)
    space.value = value
    local.value = value
    nested["inner"]["deep"].append(value)
    Config.set(value)
    store.items.append(value)
    slots.value = value
    call.value = value
    globals()["made"] = value
    builtins.made_there = value
    multiprocessing.current_process().value = value
    help_init(value)
    memoized(value)


def help_init(value):
    by_helper.append(value)


@functools.lru_cache
def memoized(value):
    return [value]


def call(_=None):
    return (
        rebound,
        mapping,
        sequence,
        members,
        space.value,
        local.value,
        nested,
        Config.value,
        Config.options,
        store.items,
        slots.value,
        call.value,
        made,
        made_there,
        multiprocessing.current_process().value,
        by_helper,
    )


def misses(_=None):
    memoized("value")
    return memoized.cache_info().misses


def add(number):
    global count
    count += 1
    sequence.append(number)
    mapping[number] = len(mapping)
    add.calls = getattr(add, "calls", 0) + 1
    return count, len(sequence), len(mapping), add.calls


def look(_=None):
    return count, len(sequence), len(mapping), add.calls


class Task:
    """A callable object that finds what the initializer has left."""

    def __call__(self, _=None):
        return mapping["key"], call.value

    def method(self, _=None):
        return sequence[0], Config.value

    @staticmethod
    def static(_=None):
        return store.items, space.value


def main(method):
    context = multiprocessing.get_context(method)
    with context.Pool(1, init, ("value",)) as pool:
        print(pool.apply(call))
        print(pool.map(call, range(2)))
        print(pool.apply(Task()), pool.apply(Task().method), pool.apply(Task.static))
        print(pool.apply(functools.partial(call, 3)))
        print(pool.apply(misses), pool.map(misses, range(3)))
        print(pool.map(add, range(5)), pool.apply(look))
        print(list(pool.imap(add, range(3))), pool.apply(look))
    print(mapping, sequence, members, rebound, nested)
    with context.Pool(1) as pool:
        print(pool.apply(add, (1,)), pool.apply(look), pool.map(add, range(3)), pool.apply(look))
    with context.Pool(1, sequence.append, ("bound",)) as pool:
        print(pool.apply(add, (1,))[:1])
    with context.Pool(1, functools.partial(init, "partial")) as pool:
        print(pool.apply(call)[:3])


if __name__ == "__main__":
    main(sys.argv[1])
