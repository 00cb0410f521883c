"""A program for ezpq 0.1, with another import: a decorated function, and the same by hand."""

import random
import time

import qmill.compat.ezpq01 as ezpq


def sleep(x, min=0, max=1):
    n = random.randint(min * 1000, max * 1000) / 1000
    time.sleep(n / 100)
    return f"Job {x} slept."


@ezpq.Queue(n_workers=5)
def random_sleep(x, min=0, max=1):
    return sleep(x, min, max)


output = random_sleep(items=range(10), min=0, max=2)

with ezpq.Queue(n_workers=5) as Q:
    for i in range(10):
        Q.put(sleep, args=[i, 0, 2])
    Q.wait()
    same = Q.collect()

first = {**output[0], "runtime": 0 < output[0]["runtime"] < 60}
for key in ("id", "name", "priority", "timeout", "function", "args", "kwargs", "exitcode"):
    print(f"{key}: {first[key]}")
if [job["output"] for job in output] != [f"Job {x} slept." for x in range(10)]:
    raise SystemExit("wrong outputs")
if [job["output"] for job in output] != [job["output"] for job in same] or len(first) != 16:
    raise SystemExit("expected the same by hand")
