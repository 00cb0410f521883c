"""One of two separate programs that share a queue by its name: this one gets orders.

Start it and `named_producer.py` in two terminals, in either order. An argument, the same for both,
gives the queue another name.
"""

import sys

import qmill


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "example-orders"
    queue = qmill.Queue(name=name)  # opens the queue, or creates it
    print("waiting for orders", flush=True)
    count, total = 0, 0.0
    for order in queue:  # until the producer has shut the queue down and it is empty
        count += 1
        total += order["price"]
        queue.task_done()

    print(f"got {count} orders, total price: {total}")
    if (count, total) != (10, 67.5):
        raise SystemExit("expected 10 orders, total price: 67.5")


if __name__ == "__main__":
    main()
