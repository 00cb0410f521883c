"""A decorated function runs in parallel, once for each item, and returns the jobs in order."""

import qmill


@qmill.parallel(max_workers=5)
def collatz_steps(number: int, start: int = 0) -> int:
    """Count the steps from a number down to 1."""
    steps = start
    while number != 1:
        number = 3 * number + 1 if number % 2 else number // 2
        steps += 1
    return steps


completed = collatz_steps(range(1, 11))
outputs = [job.output for job in completed]
again = [job.output for job in collatz_steps(items=range(1, 11), start=100)]

print(f"steps: {outputs}")
print(f"and 100: {again}")
record = completed[6].to_dict()
for key in ("id", "function", "args", "output", "exitcode", "state"):
    print(f"{key}: {record[key]}")
if outputs != [0, 1, 7, 2, 5, 8, 16, 3, 19, 6] or again != [100 + n for n in outputs]:
    raise SystemExit("wrong outputs")
if record["runtime"] is None or not record["submitted"] <= record["started"] <= record["ended"]:
    raise SystemExit("wrong times")
