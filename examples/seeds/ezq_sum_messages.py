"""A program for ezq 3, with another import: workers sum what they read from one queue."""

import qmill.compat.ezq as ezq


def add_up(q, out):
    """Put the sum of all messages that this worker gets."""
    total = 0
    for msg in q:
        total += msg.data
    out.put(total)


def main():
    q, out = ezq.Q(), ezq.Q()
    workers = [ezq.run(add_up, q, out) for _ in range(ezq.NUM_CPUS)]
    for number in range(1000):
        q.put(number)
    q.stop(workers)

    if any(worker.is_alive() or worker.exitcode for worker in workers):
        raise SystemExit("expected all workers to have ended well")
    total = sum(msg.data for msg in out.items())
    print(f"total: {total}")
    if total != 499500:
        raise SystemExit("expected 499500")


if __name__ == "__main__":
    main()
