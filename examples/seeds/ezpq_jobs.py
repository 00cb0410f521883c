"""A program for ezpq 0.2, with another import: jobs, priorities, sizes, and `get(wait=True)`."""

import time

import qmill.compat.ezpq as ezpq


def rest(x):
    time.sleep(0.01)
    return x


def print_sizes(Q):
    parts = [{"waiting": True}, {"working": True}, {"completed": True}]
    print("sizes:", Q.size(), *[Q.size(**part) for part in parts])


with ezpq.Queue(4) as Q:
    for x in range(20):
        job = ezpq.Job(rest, args=x, priority=x % 2)  # the even ones first
        Q.submit(job)
    while Q.size(waiting=True, working=True):
        print_sizes(Q)
        time.sleep(0.02)
    print_sizes(Q)
    collected = Q.collect()

with ezpq.Queue(4) as Q:
    output = [None] * 20
    for x in range(20):
        Q.put(rest, x)
    for i in range(20):
        output[i] = Q.get(wait=True)
    after = Q.size(), Q.get(), Q.get(wait=True)

print([job["output"] for job in collected])
if [job["output"] for job in collected] != [*range(0, 20, 2), *range(1, 20, 2)]:
    raise SystemExit("expected the even ones first")
if sorted(job["id"] for job in output) != list(range(1, 21)) or after != (0, None, None):
    raise SystemExit("expected each of the jobs once")
