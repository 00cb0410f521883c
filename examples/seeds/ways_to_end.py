"""The three ways to end a queue: `end`, `items` and `stop`."""

import qmill


def shout(q: qmill.Q, out: qmill.Q) -> None:
    """Put each word in capitals; the loop leaves when it reads an END."""
    for msg in q:
        out.put(msg.data.upper(), order=msg.order)


def main() -> None:
    q, out = qmill.Q(), qmill.Q()

    # 1. `end` puts one END, for one reader: here this loop.
    q.put("by hand").end()
    by_end = [msg.data for msg in q]

    # 2. `items` puts an END and reads what is there.
    q.put("what is there")
    by_items = [msg.data for msg in q.items()]

    # 3. `stop` puts an END for each worker and waits for them.
    workers = [qmill.run(shout, q, out) for _ in range(2)]
    for order, word in enumerate(("and", "by", "workers")):
        q.put(word, order=order)
    q.stop(workers)
    by_stop = [msg.data for msg in out.items(sort=True)]

    print(by_end, by_items, by_stop)
    if by_end + by_items + by_stop != ["by hand", "what is there", "AND", "BY", "WORKERS"]:
        raise SystemExit("a message went to the wrong reader")


if __name__ == "__main__":
    main()
