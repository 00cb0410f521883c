"""`items(sort=True)` ends a queue and reads its messages by their `order`."""

import random
import time

import qmill


def square(q: qmill.Q, out: qmill.Q) -> None:
    """Put the square of each number, after a moment of work."""
    for msg in q:
        time.sleep(random.uniform(0, 0.01))
        out.put(msg.data**2, order=msg.order)


def main() -> None:
    q, out = qmill.Q(), qmill.Q()
    workers = [qmill.run(square, q, out) for _ in range(4)]
    for number in range(20):
        q.put(number, order=number)
    q.stop(workers)

    squares = [msg.data for msg in out.items(sort=True)]  # they arrived in any order
    print(squares)
    if squares != [number**2 for number in range(20)]:
        raise SystemExit("the squares are out of order")


if __name__ == "__main__":
    main()
