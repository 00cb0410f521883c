"""No main guard: closures run in worker processes, with what they captured."""

from collections.abc import Callable

import qmill


def multiplier(factor: int) -> Callable[[qmill.Q, qmill.Q], None]:
    """Return a worker function that multiplies by the factor."""

    def multiply(q: qmill.Q, out: qmill.Q) -> None:
        for msg in q:
            out.put(factor * msg.data)

    return multiply


q, out = qmill.Q(), qmill.Q()
workers = [qmill.run(multiplier(3), q, out) for _ in range(2)]
for number in range(10):
    q.put(number)
q.stop(workers)

results = sorted(msg.data for msg in out.items())
print(results)
if results != [3 * number for number in range(10)]:
    raise SystemExit("expected the multiples of 3")
