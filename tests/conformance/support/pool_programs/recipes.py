"""What programs found on the web do with pools."""

import functools
import multiprocessing
import multiprocessing.pool
import signal
import sys
import threading
from contextlib import closing
from multiprocessing import Pool


class NoDaemonProcess(multiprocessing.Process):
    @property
    def daemon(self):
        return False

    @daemon.setter
    def daemon(self, value):
        pass


class NoDaemonContext(type(multiprocessing.get_context())):
    Process = NoDaemonProcess


class NoDaemonPool(multiprocessing.pool.Pool):
    def __init__(self, *args, **kwargs):
        kwargs["context"] = NoDaemonContext()
        super().__init__(*args, **kwargs)


class LoggedPool(multiprocessing.pool.Pool):
    """A pool that counts what it is asked for."""

    num_asked = 0

    def apply_async(self, func, args=(), kwds={}, callback=None, error_callback=None):
        self.num_asked += 1
        return super().apply_async(func, args, kwds, callback, error_callback)


class Model:
    """Has a pool for its own methods, and can be sent without it."""

    def __init__(self, factor):
        self.factor = factor
        self.pool = multiprocessing.Pool(2)

    def __getstate__(self):
        state = self.__dict__.copy()
        del state["pool"]
        return state

    def times(self, number):
        return self.factor * number

    @staticmethod
    def half(number):
        return number / 2

    @classmethod
    def name(cls, number):
        return f"{cls.__name__}-{number}"

    def run(self):
        return self.pool.map(self.times, range(5))


def square(number):
    return number * number


def squares_within(count):
    with multiprocessing.Pool(2) as pool:
        return pool.map(square, range(count))


def ignore_interrupt():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def add(first, second):
    return first + second


def unpack(args):
    return add(*args)


counter = None


def init(shared):
    global counter
    counter = shared


def count(_):
    with counter.get_lock():
        counter.value += 1
    return


def abortable(func, *args, timeout):
    pool = multiprocessing.pool.ThreadPool(1)
    try:
        return pool.apply_async(func, args).get(timeout)
    except multiprocessing.TimeoutError:
        return "too slow"
    finally:
        pool.close()


def main(method):
    multiprocessing.set_start_method(method, force=True)
    if NoDaemonContext().get_start_method() == method:
        with NoDaemonPool(2) as pool:
            print("nested", pool.map(squares_within, [2, 3]))
    with LoggedPool(2) as pool:
        print(pool.apply(square, (3,)), pool.apply_async(square, (4,)).get(), pool.num_asked)
    with closing(Pool(2)) as pool:
        print(pool.map(square, range(4)))
    pool.join()
    model = Model(3)
    print(model.run(), model.pool.map(Model.half, [1, 2]), model.pool.map(Model.name, [1]))
    print(model.pool.map(functools.partial(add, 10), [1, 2]))
    print(model.pool.map(unpack, zip([1, 2], [3, 4])))
    model.pool.close()
    model.pool.join()
    total = multiprocessing.Value("i", 0)
    with Pool(2, initializer=init, initargs=(total,)) as pool:
        pool.map(count, range(50), chunksize=3)
    print(total.value)
    with Pool(2, ignore_interrupt) as pool:
        print(pool.map_async(square, [1, 2]).get(9999))
        results = [pool.apply_async(square, (n,)) for n in range(10)]
        print([result.get(timeout=60) for result in results])
        print([p.get() for p in [pool.apply_async(pow, (n, 2)) for n in range(4)]])
    done = []
    pool = Pool(2)
    for number in range(20):
        pool.apply_async(square, args=(number,), callback=done.append)
    pool.close()
    pool.join()
    print(sorted(done))
    with Pool(2) as pool:
        for first, value in enumerate(pool.imap(square, range(3))):
            print(first, value)
        for _ in range(3):
            print(pool.map(square, [1]))
    release = threading.Event()
    print(abortable(release.wait, timeout=0.01), abortable(square, 3, timeout=60))
    release.set()
    with Pool(2) as one, Pool(2) as two:
        print(one.map(square, two.map(square, [1, 2])))
    pools = [Pool(1) for _ in range(3)]
    print([pool.apply(square, (n,)) for n, pool in enumerate(pools)])
    for pool in pools:
        pool.terminate()
    for pool in pools:
        pool.join()
    outer = threading.Thread(target=lambda: print(Pool(1).map(square, [5])))
    outer.start()
    outer.join()


if __name__ == "__main__":
    main(sys.argv[1])
