"""Iterators of a pool: inputs that do not end, results that nobody reads, several readers."""

import itertools
import multiprocessing
import sys
import threading
from multiprocessing.pool import ThreadPool


def double(number):
    return number * 2


def wait(event):
    return event.wait()


def tell(what, call, *args, **kwargs):
    try:
        print(what, call(*args, **kwargs))
    except Exception as error:
        print(what, type(error).__name__, error)


class Counting:
    """An endless input that tells which thread has read it."""

    def __init__(self):
        self.readers = set()

    def __iter__(self):
        for each in itertools.count():
            self.readers.add(threading.current_thread())
            yield each


def stepwise(gates):
    for number, gate in enumerate(gates):
        gate.wait()
        yield number


def show(pool, manager):
    for kind in (pool.imap, pool.imap_unordered):
        results = kind(double, range(3))
        print(iter(results) is results, sorted(results), list(results))
        tell("at the end", next, results)
        tell("at the end", results.next, 0)
        gate = manager.Event()
        results = kind(wait, [gate])
        tell("in time", results.next, 0.01)
        tell("in time", results.next, timeout=0)
        gate.set()
        tell("in time", results.next, timeout=60)
        tell("in time", results.next, timeout=60)
        gates = [threading.Event() for _ in range(3)]
        results = kind(double, stepwise(gates))
        for gate in gates:
            gate.set()
            print(next(results))
        several = [kind(double, range(10 * n, 10 * n + 3)) for n in range(4)]
        print(
            [sorted(next(each) for each in several) for _ in range(3)] if kind == pool.imap else 0
        )
        for size in (1, 7, 300):
            print(sorted(kind(double, iter(range(100)), size)) == [*range(0, 200, 2)])
    unread = pool.imap(double, range(2000))
    other = pool.imap_unordered(double, range(2000), 10)
    pool.close()
    pool.join()
    print(sum(unread), sum(other))


def show_endless(make):
    with make(2) as pool:
        source = Counting()
        results = pool.imap(double, source)
        print([next(results) for _ in range(5)])
        print(threading.main_thread() in source.readers)
    with make(2) as pool:
        print(len(list(itertools.islice(pool.imap_unordered(double, itertools.count()), 10))))


def main(method):
    context = multiprocessing.get_context(method)
    with context.Manager() as manager:
        for make in (context.Pool, ThreadPool):
            show(make(2), manager)
            show_endless(make)


if __name__ == "__main__":
    main(sys.argv[1])
