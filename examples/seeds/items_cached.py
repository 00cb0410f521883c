"""`items(cache=True)` keeps the messages of a queue, so that they can be read more than once."""

import random

import qmill


def draw(out: qmill.Q, count: int) -> None:
    """Put some random numbers."""
    for _ in range(count):
        out.put(random.random())


def main() -> None:
    out = qmill.Q()
    workers = [qmill.run(draw, out, 50) for _ in range(2)]
    for worker in workers:
        worker.result()  # raises what went wrong there, if anything did

    # The first loop reads the queue, the second reads what the first has kept.
    mean = sum(msg.data for msg in out.items(cache=True)) / 100
    above = [msg.data for msg in out.items(cache=True) if msg.data > mean]

    print(f"100 numbers with a mean of {mean:.3f}, {len(above)} of them above it")
    if not out.empty():
        raise SystemExit(f"{out.qsize()} messages were not read")
    if not 0 < len(above) < 100:
        raise SystemExit(f"{len(above)} of 100 numbers cannot be above their mean")


if __name__ == "__main__":
    main()
