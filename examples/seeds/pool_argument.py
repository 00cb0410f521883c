"""A queue passed directly as an argument of `Pool.map`, under any start method.

Run it with fork, forkserver or spawn as its argument; without one it takes Python's default.
"""

import multiprocessing
import random
import sys
import time

import qmill


def task(queue: qmill.Queue) -> float:
    """Work for a moment, put the result on the queue, and return it, too."""
    number = random.random()
    time.sleep(number * 0.02)
    queue.put(number)
    return number


def main() -> None:
    context = multiprocessing.get_context(sys.argv[1] if len(sys.argv) > 1 else None)
    queue = qmill.Queue()
    with context.Pool(4) as pool:
        returned = pool.map(task, [queue] * 10)

    received = [queue.get() for _ in range(10)]
    for number in received:
        print(f"> got {number:.3f}")
    if sorted(received) != sorted(returned) or not queue.empty():
        raise SystemExit(f"the tasks put {returned}, but the queue gave {received}")


if __name__ == "__main__":
    main()
