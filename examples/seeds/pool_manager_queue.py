"""A Manager's queue and a `qmill.Queue`, side by side: one task, one pool, the same result.

The Manager's queue is a proxy: each call goes through a server process that has to be started.
"""

import multiprocessing
from typing import Any

import qmill


def task(queue: Any, number: int) -> None:
    """Put the square of the number on either kind of queue."""
    queue.put(number**2)


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(2) as pool:
        queues = {"manager.Queue": manager.Queue(), "qmill.Queue": qmill.Queue()}
        squares = {}
        for name, queue in queues.items():
            pool.starmap(task, [(queue, number) for number in range(10)])
            squares[name] = sorted(queue.get() for _ in range(10))
            print(f"{name}: {squares[name]}")

    if squares["qmill.Queue"] != squares["manager.Queue"]:
        raise SystemExit("the two queues gave different results")


if __name__ == "__main__":
    main()
