"""Several processes read numbers and compute; another one prints the results in order."""

import qmill


def collatz_length(q: qmill.Q, out: qmill.Q) -> None:
    """Count the steps from each number down to 1."""
    for msg in q:
        number, steps = msg.data, 0
        while number != 1:
            number = 3 * number + 1 if number % 2 else number // 2
            steps += 1
        out.put((msg.data, steps), order=msg.order)


def printer(out: qmill.Q) -> int:
    """Print the results by increasing order, and return the sum of all steps."""
    total = 0
    for msg in out.sorted(start=1):
        number, steps = msg.data
        print(f"{number}: {steps} steps")
        total += steps
    return total


def main() -> None:
    q, out = qmill.Q(), qmill.Q()
    readers = [qmill.run(collatz_length, q, out) for _ in range(max(1, qmill.NUM_CPUS - 1))]
    writer = qmill.run(printer, out)

    for number in range(1, 31):
        q.put(number, order=number)
    q.stop(readers)
    out.stop([writer])

    if writer.result() != 441:
        raise SystemExit(f"expected 441 steps in all, got {writer.result()}")


if __name__ == "__main__":
    main()
