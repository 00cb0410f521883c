"""A program for ezpq 0.1, with another import: waiting and fetching with a timeout; dispose."""

import logging as log
import time

import qmill.compat.ezpq01 as ezpq

told = []
handler = log.Handler()
handler.emit = lambda record: told.append(record.getMessage())
logger = log.getLogger()
logger.addHandler(handler)
logger.setLevel(log.DEBUG)


def rest(x):
    time.sleep(0.03)
    return x


with ezpq.Queue(n_workers=3) as Q:
    for x in range(10):
        Q.put(rest, args=[x])
    n_remaining = Q.wait(timeout=0.04)
    while n_remaining > 0:
        print(f"Timeout reached; jobs remain: {n_remaining}")
        n_remaining = Q.wait(timeout=0.04)
    output = []
    while Q.size() > 0:
        output.append(Q.get(timeout=0.5))
    print(f"jobs remain: {Q.size()}; outputs: {[job['output'] for job in output]}")

Q = ezpq.Queue()  # without a block it is for the program to dispose of it
for x in range(3):
    Q.put(rest, args=[x])
Q.wait()
Q.dispose()

if [job["output"] for job in output] != list(range(10)):
    raise SystemExit("expected the outputs in order")
if "Initialized queue with 3 workers." not in told or "Completed job: '10'" not in told:
    raise SystemExit(f"expected more to be told than {told}")
