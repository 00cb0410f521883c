"""First in, first out; exact sizes; and `peek`, which looks at an item and leaves it there."""

import qmill


def main() -> None:
    queue = qmill.Queue(maxsize=3)
    for letter in "ABC":
        queue.put(letter)
    print(f"{queue.qsize()} items, full: {queue.full()}, next: {queue.peek()}")
    if (queue.qsize(), queue.full(), queue.peek()) != (3, True, "A"):
        raise SystemExit("expected 3 items, full: True, next: A")

    letters = [queue.get() for _ in range(3)]
    print(f"got {letters}, empty: {queue.empty()}")
    if letters != ["A", "B", "C"] or not queue.empty():
        raise SystemExit("expected ['A', 'B', 'C'] and an empty queue")


if __name__ == "__main__":
    main()
