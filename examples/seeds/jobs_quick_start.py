"""Ten jobs on two worker processes: put them in, leave the block, look at what they gave."""

import random
import time

import qmill


def sleep_a_little(number: int, longest: float) -> str:
    """Take some time, and tell which job this was."""
    time.sleep(random.uniform(0, longest))
    return f"job {number} has slept"


with qmill.JobQueue(max_workers=2) as jobs:
    for number in range(10):
        jobs.put(sleep_a_little, (number, 0.05))
# The block has waited for all of them.

completed = jobs.collect()
for job in completed:
    print(job.id, job.output)
if [job.output for job in completed] != [f"job {n} has slept" for n in range(10)]:
    raise SystemExit("expected ten jobs, in the order in which they were put")
