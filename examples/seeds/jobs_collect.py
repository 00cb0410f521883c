"""All that is completed, at once: `wait`, then `collect`, which sorts by priority."""

import qmill

with qmill.JobQueue(max_workers=5) as jobs:
    for number in range(10):
        jobs.put(lambda x: x**3, number, priority=-number)  # the lower goes first
    jobs.wait()
    before = jobs.size()
    two = jobs.collect(2)
    rest = jobs.collect()
    after = jobs.size()

print(f"{before} jobs before, {after} after")
print([job.output for job in two], [job.output for job in rest])
if (before, after, len(two), len(rest)) != (10, 0, 2, 8):
    raise SystemExit("expected 10 jobs before, 0 after")
if [job.output for job in two + rest] != [number**3 for number in reversed(range(10))]:
    raise SystemExit("expected the jobs by priority")
