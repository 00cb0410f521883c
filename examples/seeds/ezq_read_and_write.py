"""A program for ezq 3, with another import: threads compute, one process prints in order."""

import qmill.compat.ezq as ezq


def print_in_order(out: ezq.Q) -> None:
    for msg in out.sorted():
        print(*msg.data)


def halve_or_triple(q: ezq.Q, out: ezq.Q) -> None:
    """Do what the kind of each message says."""
    for msg in q:
        number = float(msg.data)
        if msg.kind == "EVEN":
            out.put((number, number / 2), order=msg.order)
        elif msg.kind == "ODD":
            out.put((number, 3 * number + 1), order=msg.order)


def main() -> None:
    q, out = ezq.Q("thread"), ezq.Q()
    readers = [ezq.run_thread(halve_or_triple, q, out) for _ in range(ezq.NUM_THREADS)]
    writer = ezq.run(print_in_order, out)

    for number in range(40):
        kind = "ODD" if number % 2 else "EVEN"
        q.put(number, kind=kind, order=number)
    q.stop(readers)
    out.stop(writer)


if __name__ == "__main__":
    main()
