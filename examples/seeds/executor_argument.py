"""A queue passed as an argument to the tasks of a `ProcessPoolExecutor`: progress while they run.

Run it with fork, forkserver or spawn as its argument; without one it takes Python's default.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import qmill


def task(progress: qmill.Queue, number: int) -> int:
    """Tell that the work on the number is done, and return its square."""
    progress.put(number)
    return number**2


def main() -> None:
    context = multiprocessing.get_context(sys.argv[1] if len(sys.argv) > 1 else None)
    progress = qmill.Queue()
    with ProcessPoolExecutor(max_workers=2, mp_context=context) as executor:
        futures = [executor.submit(task, progress, number) for number in range(10)]
        done = [progress.get() for _ in futures]  # in the order in which they finish
        squares = [future.result() for future in futures]

    print(f"{len(done)} tasks done: {squares}")
    if sorted(done) != list(range(10)) or squares != [number**2 for number in range(10)]:
        raise SystemExit(f"told of {done}, and returned {squares}")


if __name__ == "__main__":
    main()
