"""A program for ezpq 0.1, with another import: every argument, and one `wait` after another."""

import time
from multiprocessing import Process

import qmill.compat.ezpq01 as ezpq


def rest(x, seconds=0.01):
    time.sleep(seconds)
    return x


def print_sizes(Q):
    parts = [{"waiting": True}, {"working": True}, {"completed": True}]
    print("sizes:", Q.size(), *[Q.size(**part) for part in parts])


told = []
Q = ezpq.Queue(
    job_runner=Process,
    n_workers=3,
    max_size=0,
    auto_remove=False,
    auto_start=True,
    auto_stop=False,
    callback=lambda job: told.append(job["output"]),
    log_file=None,
    poll=0.1,
)
with Q:
    for x in range(10):
        Q.put(rest, args=[x], kwargs={"seconds": 0.02}, name=None, priority=100, timeout=0)
    while Q.size(waiting=True, working=True) > 0:
        print_sizes(Q)
        Q.wait(n=1)
    print_sizes(Q)
    before = Q.size()
    output = Q.collect()
    after = Q.size()

print(f"{before} before, {after} after, {len(output)} collected")
if (before, after, len(output), sorted(told)) != (10, 0, 10, list(range(10))):
    raise SystemExit("expected ten jobs")
