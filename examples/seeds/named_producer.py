"""One of two separate programs that share a queue by its name: this one puts orders.

Start it and `named_consumer.py` in two terminals, in either order. An argument, the same for both,
gives the queue another name.
"""

import sys

import qmill


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "example-orders"
    queue = qmill.Queue(name=name)  # opens the queue, or creates it
    for number in range(10):
        queue.put({"order": number, "price": 1.5 * number})
    queue.shutdown()  # no more orders: the consumer's loop ends after the last
    print("put 10 orders", flush=True)

    queue.join()  # keeps the queue until the consumer is done with all of them
    print("all of them are done")
    if not queue.empty():
        raise SystemExit(f"{queue.qsize()} orders are left over")


if __name__ == "__main__":
    main()
