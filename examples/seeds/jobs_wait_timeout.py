"""Waiting for jobs for a limited time: `wait(timeout=...)` tells how many are left."""

import qmill

gates = [qmill.Queue() for _ in range(4)]  # each job waits until its own gate is opened
remaining = []

with qmill.JobQueue(max_workers=2) as jobs:
    waiting = [jobs.put(lambda gate: gate.get(), (gate,)) for gate in gates]

    while (left := jobs.wait(timeout=0.05)) > 0:  # seconds; the jobs run on
        print(f"time is up, jobs remaining: {left}")
        remaining.append(left)
        job, gate = waiting.pop(0), gates.pop(0)
        gate.put("go on")
        job.result()

print(f"jobs remaining: {left}")
if remaining != [4, 3, 2, 1]:
    raise SystemExit(f"expected one job less each time, got {remaining}")
