"""A program for ezpq 0.2, with another import: lanes, their errors, and timeouts."""

import time

import qmill.compat.ezpq as ezpq


def reciprocal(x):
    return 1 / x


with ezpq.Queue(6) as Q:
    for i in range(40):
        Q.put(
            reciprocal,
            i % 7,
            lane=i % 5,
            suppress_errors=True,
            stop_on_lane_error=True,
        )
    Q.wait()
    output = Q.collect()

lanes = [[job for job in output if job["lane"] == lane] for lane in range(5)]
codes = [[job["exitcode"] for job in lane] for lane in lanes]
print(*codes, sep="\n")
for lane in lanes:
    numbers = [job["args"][0] for job in lane]
    until = numbers.index(0)  # up to the first division by zero
    if [job["started"] is not None for job in lane] != [True] * (until + 1) + [False] * (7 - until):
        raise SystemExit("expected a lane to stop at its first error")

with ezpq.Queue(2) as Q:
    for seconds in (0, 60):
        Q.put(time.sleep, seconds, timeout=0.3, lane="slow")
    Q.wait()
    output = Q.collect()

print([(job["exitcode"], job["cancelled"], job["timeout"]) for job in output])
if [(job["exitcode"], job["cancelled"]) for job in output] != [(0, False), (-15, True)]:
    raise SystemExit("expected one job to be cancelled")
