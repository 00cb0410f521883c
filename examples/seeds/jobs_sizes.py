"""The three parts of a job queue, waiting, working and completed, while jobs pass through them."""

import qmill


def rest(begun: qmill.Queue, gate: qmill.Queue) -> None:
    """Tell that the job has begun, and end when the gate is opened."""
    begun.put("here I am")
    gate.get()


def sizes(jobs: qmill.JobQueue) -> str:
    parts = {part: jobs.size(**{part: True}) for part in ("waiting", "working", "completed")}
    told = ", ".join(f"{size} {part}" for part, size in parts.items())
    return f"{jobs.size()} in all: {told}"


begun, gate = qmill.Queue(), qmill.Queue()
seen = []
with qmill.JobQueue(max_workers=2, auto_start=False) as jobs:
    first = [jobs.put(abs, -number) for number in range(3)]
    for _ in range(7):
        jobs.put(rest, (begun, gate))
    seen.append(sizes(jobs))  # not started yet

    jobs.start()
    for job in first:
        job.result()
    begun.get(), begun.get()  # both workers are at the gate
    seen.append(sizes(jobs))

    gate.put_many(range(7))
    jobs.wait()
    seen.append(sizes(jobs))

    jobs.collect()
    seen.append(sizes(jobs))

print(*seen, sep="\n")
if seen[1] != "10 in all: 5 waiting, 2 working, 3 completed":
    raise SystemExit("the sizes are wrong")
