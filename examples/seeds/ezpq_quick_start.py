"""A program for ezpq 0.2, with another import: `map`, the decorator, and put, wait, collect."""

import random
import time

import qmill.compat.ezpq as ezpq


def random_sleep(x):
    random.seed(x)
    n = random.uniform(0, 0.05)
    time.sleep(n)
    return n


with ezpq.Queue(6) as Q:
    mapped = Q.map(random_sleep, range(20))

decorated = ezpq.Queue(6)(random_sleep)(iterable=range(20))

with ezpq.Queue(6) as Q:
    for x in range(20):
        Q.put(random_sleep, args=x)
    Q.wait()
    collected = Q.collect()

first = collected[0]
for key in ("args", "exitcode", "function", "id", "kwargs", "lane", "name", "priority", "timeout"):
    print(f"{key}: {first[key]}")
expected = [random.Random(x).uniform(0, 0.05) for x in range(20)]
if not all([job["output"] for job in jobs] == expected for jobs in (mapped, decorated, collected)):
    raise SystemExit("wrong outputs")
if not first["submitted"] <= first["started"] <= first["ended"] <= first["processed"]:
    raise SystemExit("wrong times")
