"""Lanes: jobs of one lane run one after another, jobs of different lanes side by side."""

import qmill

STEPS = ["fetch", "shrink", "store"]


def work(picture: str, step: str, done: qmill.Queue) -> None:
    """Do one step for one picture; the one before it must be done."""
    done.put((picture, step))


done = qmill.Queue()
with qmill.JobQueue(max_workers=3) as jobs:
    for step in STEPS:
        for picture in ("cat", "dog", "owl"):
            jobs.put(work, (picture, step, done), lane=picture)

ran: dict[str, list[str]] = {}
for picture, step in done.get_many(9):
    ran.setdefault(picture, []).append(step)
for picture, steps in sorted(ran.items()):
    print(f"{picture}: {', '.join(steps)}")
if any(steps != STEPS for steps in ran.values()):
    raise SystemExit("a lane is out of order")

ended = {}
for job in jobs.collect():  # they were put in the order in which each lane runs
    if job.lane in ended and job.started < ended[job.lane]:
        raise SystemExit(f"two jobs of lane {job.lane} ran at a time")
    ended[job.lane] = job.ended
