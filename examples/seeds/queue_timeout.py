"""A consumer that waits a limited time for each item: `get(timeout=...)`."""

import random
import time

import qmill


def producer(queue: qmill.Queue) -> list[float]:
    """Put ten random numbers, then None, and return the numbers."""
    sent = []
    for _ in range(10):
        number = random.random()
        time.sleep(number * 0.02)  # slow work
        queue.put(number)
        sent.append(number)
    queue.put(None)  # all done
    return sent


def consumer(queue: qmill.Queue) -> list[float]:
    """Get numbers up to the None, and return them."""
    received = []
    while True:
        try:
            item = queue.get(timeout=0.01)  # seconds
        except qmill.Empty:
            print("gave up waiting, trying again")
            continue
        if item is None:
            return received
        print(f"> got {item:.3f}")
        received.append(item)


def main() -> None:
    queue = qmill.Queue()
    consuming = qmill.run(consumer, queue)
    producing = qmill.run(producer, queue)

    sent, received = producing.result(), consuming.result()
    print(f"sent {len(sent)}, received {len(received)}")
    if received != sent:
        raise SystemExit(f"sent {sent}, but received {received}")


if __name__ == "__main__":
    main()
