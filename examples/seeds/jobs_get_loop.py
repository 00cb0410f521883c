"""Fetching jobs one by one as they are completed: a loop of `get(timeout=...)`."""

import qmill


def double(number: int, gate: qmill.Queue) -> int:
    """Wait for a permit, as for something slow, and compute."""
    gate.get()
    return 2 * number


gate = qmill.Queue()
outputs = []

with qmill.JobQueue(max_workers=2) as jobs:
    for number in range(4):
        jobs.put(double, (number, gate))

    while jobs.size() > 0:
        job = jobs.get(timeout=0.05)
        if job is None:
            print(f"nothing yet, jobs remaining: {jobs.size()}")
            gate.put("permit for one")
            job = jobs.get()  # without a timeout it waits
        outputs.append(job.output)

print(f"jobs remaining: {jobs.size()}, outputs: {sorted(outputs)}")
if sorted(outputs) != [0, 2, 4, 6] or jobs.get() is not None:
    raise SystemExit("expected [0, 2, 4, 6], and None from an empty queue")
