"""Sum numbers in several processes: one queue carries the work, one the results."""

import qmill


def add_up(q: qmill.Q, out: qmill.Q) -> None:
    """Add up the messages that this worker gets, and report its total."""
    out.put(sum(msg.data for msg in q))


def main() -> None:
    q, out = qmill.Q(), qmill.Q()
    workers = [qmill.run(add_up, q, out) for _ in range(qmill.NUM_CPUS)]

    for number in range(1000):
        q.put(number)
    q.stop(workers)  # one END for each worker, then wait for them

    total = sum(msg.data for msg in out.items())
    print(f"total: {total}")
    if total != sum(range(1000)):
        raise SystemExit(f"expected {sum(range(1000))}")


if __name__ == "__main__":
    main()
