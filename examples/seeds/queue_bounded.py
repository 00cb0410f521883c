"""A queue with room for three: `Full` without waiting, after a time limit, and not at all."""

import qmill


def consumer(queue: qmill.Queue) -> list[int]:
    """Return all items up to the None."""
    return list(iter(queue.get, None))


def main() -> None:
    queue = qmill.Queue(maxsize=3)
    for number in range(3):
        queue.put(number)
    if not queue.full():
        raise SystemExit(f"{queue.qsize()} items do not fill a queue of 3")

    try:
        queue.put_nowait(3)  # or queue.put(3, block=False)
    except qmill.Full:
        print("full: no room right now")
    else:
        raise SystemExit("a fourth item went into a queue of 3")

    try:
        queue.put(3, timeout=0.01)
    except qmill.Full:
        print("full: no room in 10 ms either")
    else:
        raise SystemExit("a fourth item went into a queue of 3")

    worker = qmill.run(consumer, queue)
    for number in range(3, 10):
        queue.put(number)  # waits for room
    queue.put(None)
    print(f"received {worker.result()}")
    if worker.result() != list(range(10)):
        raise SystemExit("an item got lost")


if __name__ == "__main__":
    main()
