"""The methods of a pool, with every way to cut the input, and what their results tell."""

import multiprocessing
import sys
import threading
from multiprocessing.pool import ThreadPool


def power(base, exponent=2, *, add=0):
    return base**exponent + add


def inverse(number):
    return 1 / number


class Sized:
    """An input that knows its length, and raises."""

    def __len__(self):
        return 10

    def __iter__(self):
        yield 1
        raise OSError("no more input")


def numbers(end):
    yield from range(end)


def broken_numbers():
    yield 1
    yield 2
    raise KeyError("broken")


def tell(what, call, *args, **kwargs):
    try:
        print(what, call(*args, **kwargs))
    except Exception as error:
        print(what, type(error).__name__, str(error).partition("\n")[0])


def show_calls(pool):
    tell("apply", pool.apply, power, (3,))
    tell("apply", pool.apply, power, (3, 3), {"add": 1})
    tell("apply", pool.apply, power, iter([3]))
    tell("apply", pool.apply, power, "34")
    tell("apply", pool.apply, power)
    tell("apply", pool.apply, inverse, (0,))
    tell("apply", pool.apply, int, ("x",))
    tell("apply_async", pool.apply_async(func=power, args=(2,), kwds={"add": 5}).get)
    for size in (None, 1, 2, 3, 10, 1000):
        tell("map", pool.map, power, range(7), size)
        tell("map", pool.map, power, numbers(7), chunksize=size)
        tell("map", pool.map, inverse, [1, 2, 0, 4], size)
        tell("starmap", pool.starmap, power, [(2, 3), [3, 2], "ab"[:0], (4,)], size)
        tell("starmap", pool.starmap, power, [(2, 3), [3, 2], (4,)], size)
        tell("starmap_async", pool.starmap_async(power, zip([1, 2], [3, 4]), size).get)
    for size in (1, 2, 3, 10, 1000):
        tell("imap", lambda: list(pool.imap(power, numbers(7), size)))
        tell("imap_unordered", lambda: sorted(pool.imap_unordered(power, numbers(7), size)))
    for empty in ([], (), iter(()), "", {}):
        tell("map of nothing", pool.map, power, empty)
        tell("starmap of nothing", pool.starmap, power, empty)
        tell("imap of nothing", lambda: list(pool.imap(power, empty)))
        tell("imap_unordered of nothing", lambda: list(pool.imap_unordered(power, empty)))
    tell("dict", pool.map, str, {"a": 1, "b": 2})
    tell("text", pool.map, ord, "abc")
    for wrong in (0, -1, -5):
        tell("imap", pool.imap, power, [1], wrong)
        tell("imap_unordered", pool.imap_unordered, power, [1], wrong)
    for kind in (pool.map, pool.starmap):
        tell("no iterable", kind, power, 5)
    tell("no iterable", lambda: list(pool.imap(power, 5)))
    tell("starmap of no tuples", pool.starmap, power, [1, 2])


def collect(results):
    found = []
    while True:
        try:
            found.append(str(next(results)))
        except StopIteration:
            return found
        except Exception as error:
            found.append(repr(error))


def show_broken_inputs(pool):
    tell("broken map", pool.map, power, broken_numbers())
    for make in (broken_numbers, Sized):
        print(collect(pool.imap(power, make())))
        print(sorted(collect(pool.imap_unordered(power, make()))))


def show_results(pool):
    result = pool.apply_async(power, (3,))
    result.wait()
    print(result.ready(), result.successful(), result.get(), result.get(0), result.get(timeout=9))
    failed = pool.apply_async(inverse, (0,))
    failed.wait(60)
    print(failed.ready(), failed.successful())
    tell("get", failed.get)
    tell("get again", failed.get)
    maps = pool.map_async(inverse, [1, 0, 2])
    maps.wait()
    print(maps.ready(), maps.successful())
    empty = pool.map_async(power, [])
    print(empty.ready(), empty.get(), empty.successful())


def show_callbacks(pool):
    told, done = [], threading.Event()

    def note(value):
        told.append(("value", value))

    def note_error(error):
        told.append(("error", type(error).__name__))

    results = [
        pool.apply_async(power, (2,), callback=note, error_callback=note_error),
        pool.apply_async(power, (2,), {}, note),
        pool.apply_async(inverse, (0,), callback=note, error_callback=note_error),
        pool.map_async(power, [1, 2], callback=note, error_callback=note_error),
        pool.map_async(inverse, [1, 0], 1, note, note_error),
        pool.starmap_async(power, [(1, 2), (2, 2)], callback=note),
        pool.map_async(power, [4], error_callback=note_error),
    ]
    for result in results:
        result.wait()
    print(sorted(map(str, told)))
    ready = []
    first = pool.apply_async(power, (5,), callback=lambda _: ready.append(first.ready()))
    first.wait()
    print("ready in its callback:", ready)
    again = []
    pool.apply_async(
        power, (6,), callback=lambda n: again.append(pool.apply_async(power, (n,), callback=note))
    ).wait()
    again[0].wait()
    print(told[-1], again[0].get())
    pool.apply_async(power, (1,), callback=lambda _: done.set())
    print(done.wait(60))
    empty = pool.map_async(power, [], callback=note)
    empty.wait(60)
    print("of nothing:", empty.ready(), empty.get())


def show_end(pool):
    late = pool.map_async(power, range(20), 1)
    results = pool.imap(power, range(5))
    pool.close()
    for name, args in (
        ("apply", (power, (1,))),
        ("apply_async", (power, (1,))),
        ("map", (power, [1])),
        ("map_async", (power, [1])),
        ("starmap", (power, [(1,)])),
        ("imap", (power, [1])),
        ("imap_unordered", (power, [1])),
        ("__enter__", ()),
    ):
        tell(f"{name} of a closed pool", getattr(pool, name), *args)
    pool.join()
    print(late.ready(), sum(late.get()), list(results))
    pool.join()
    pool.close()
    pool.terminate()
    pool.join()
    print(str(pool).partition("state=")[2])


def main(method):
    context = multiprocessing.get_context(method)
    for make in (context.Pool, ThreadPool):
        for wrong in (0, -1):
            tell("processes", make, wrong)
        tell("initializer", make, 1, 5)
        pool = make(2)
        tell("join of a running pool", pool.join)
        print(str(pool).partition("state=")[2])
        show_calls(pool)
        show_broken_inputs(pool)
        show_results(pool)
        show_callbacks(pool)
        show_end(pool)
        with make(processes=2, initializer=None, initargs=()) as pool:
            print(pool.map(power, [1, 2, 3]))
        tell("left", pool.apply_async, power, (1,))
    for wrong in (0, -1, 1.5, "x"):
        tell("maxtasksperchild", context.Pool, 1, maxtasksperchild=wrong)
    tell("Pool", context.Pool, "2")


if __name__ == "__main__":
    main(sys.argv[1])
