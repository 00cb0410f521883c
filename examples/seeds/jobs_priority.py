"""Jobs of a lower priority number go first, both into the workers and out of `collect`."""

import qmill

with qmill.JobQueue(max_workers=1, auto_start=False) as jobs:
    for number in range(1, 21):
        jobs.put(lambda x: x, number, priority=0 if number % 5 == 0 else 1)
    last = jobs.put(lambda: "the last to come", priority=1)
    jobs.reprioritize(last, -1)  # it waits, so it can still be moved
    jobs.start()

completed = jobs.collect()
began = [job.output for job in sorted(completed, key=lambda job: job.started)]
print(f"began: {began[:7]} ...")
multiples = [5, 10, 15, 20]
others = [number for number in range(1, 21) if number % 5]
if began != ["the last to come", *multiples, *others]:
    raise SystemExit(f"wrong order: {began}")
if [job.output for job in completed] != began:
    raise SystemExit("expected the same order from collect")
