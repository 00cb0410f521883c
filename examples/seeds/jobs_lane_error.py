"""`stop_on_lane_error`: what stands behind a failed job in its lane does not run."""

import qmill


def step(lane: str, name: str) -> str:
    """Do one step; one of them goes wrong."""
    if (lane, name) == ("red", "compile"):
        raise ValueError("a semicolon is missing")
    return f"{name} is done"


told = []
# A lane that runs empty forgets its error, so the jobs begin when all have been put.
with qmill.JobQueue(max_workers=2, auto_start=False) as jobs:
    for lane in ("red", "green"):
        for name in ("compile", "link", "ship"):
            jobs.put(step, (lane, name), name=name, lane=lane, stop_on_lane_error=True)
        jobs.put(step, (lane, "tidy up"), name="tidy up", lane=lane)  # in any case
    jobs.start()

for job in jobs.collect():
    try:
        told.append(f"{job.lane}: {job.result()}")
    except ValueError as error:
        told.append(f"{job.lane}: {job.name} has failed: {error}")
    except qmill.LaneError:
        told.append(f"{job.lane}: {job.name} was {job.state}")

print(*told, sep="\n")
if told[:4] != [
    "red: compile has failed: a semicolon is missing",
    "red: link was cancelled",
    "red: ship was cancelled",
    "red: tidy up is done",
]:
    raise SystemExit("lane red went wrong in another way than it should")
if not all(text.endswith("is done") for text in told[4:]):
    raise SystemExit("lane green has nothing to do with it")
