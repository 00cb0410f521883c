"""Several threads read numbers and compute; one process prints the results in order."""

import qmill


def collatz(q: qmill.Q, out: qmill.Q) -> None:
    """Put the Collatz successor of each number, under the order that the number came with."""
    for msg in q:
        number = msg.data
        if msg.kind == "EVEN":
            out.put((number, number // 2), order=msg.order)
        elif msg.kind == "ODD":
            out.put((number, 3 * number + 1), order=msg.order)


def printer(out: qmill.Q) -> int:
    """Print the results by increasing order, whoever finishes first, and return how many."""
    count = 0
    for msg in out.sorted():
        number, successor = msg.data
        print(f"{number} -> {successor}")
        count += 1
    return count


def main() -> None:
    q, out = qmill.Q("thread"), qmill.Q()  # threads need no pickling, the printer does
    readers = [qmill.run_thread(collatz, q, out) for _ in range(qmill.NUM_THREADS)]
    writer = qmill.run(printer, out)

    for number in range(40):
        q.put(number, kind="ODD" if number % 2 else "EVEN", order=number)
    q.stop(readers)
    out.stop([writer])

    if writer.result() != 40:
        raise SystemExit(f"the printer got {writer.result()} of 40 results")


if __name__ == "__main__":
    main()
