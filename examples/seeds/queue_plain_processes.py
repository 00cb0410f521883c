"""A `qmill.Queue` between plain `multiprocessing` processes, under any start method.

Run it with fork, forkserver or spawn as its argument; without one it takes Python's default.
"""

import multiprocessing
import sys

import qmill


def producer(queue: qmill.Queue) -> None:
    """Put ten squares, then None."""
    for number in range(10):
        queue.put(number**2)
    queue.put(None)


def consumer(queue: qmill.Queue, results: qmill.Queue) -> None:
    """Add up what comes, up to the None, and put the sum."""
    results.put(sum(iter(queue.get, None)))


def main() -> None:
    context = multiprocessing.get_context(sys.argv[1] if len(sys.argv) > 1 else None)
    queue, results = qmill.Queue(), qmill.Queue()
    processes = [
        context.Process(target=consumer, args=(queue, results)),
        context.Process(target=producer, args=(queue,)),
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()  # before reading: no feeder thread keeps a process from ending

    total = results.get()
    print(f"sum of squares: {total}")
    if total != 285:
        raise SystemExit("expected sum of squares: 285")


if __name__ == "__main__":
    main()
