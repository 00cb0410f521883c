"""A queue that the workers of a pool inherit as a global, under the start method fork."""

import multiprocessing
import random
import time

import qmill

queue = qmill.Queue()


def task() -> float:
    """Work for a moment, put the result on the inherited queue, and return it, too."""
    number = random.random()
    time.sleep(number * 0.02)
    queue.put(number)
    return number


def main() -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = [pool.apply_async(task) for _ in range(10)]
        returned = [result.get() for result in results]

    received = [queue.get() for _ in range(10)]
    for number in received:
        print(f"> got {number:.3f}")
    if sorted(received) != sorted(returned) or not queue.empty():
        raise SystemExit(f"the tasks put {returned}, but the queue gave {received}")


if __name__ == "__main__":
    main()
