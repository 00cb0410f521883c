"""`starmap`: a job for each tuple of positional arguments."""

import qmill

with qmill.JobQueue(max_workers=2) as jobs:
    powers = jobs.starmap(pow, [(2, 10), (10, 3), (3, 4, 50)])
    results = [job.result() for job in powers]  # in the order of the tuples

print(results)
if results != [1024, 1000, 31]:
    raise SystemExit("expected [1024, 1000, 31]")
if jobs.collect() != powers:
    raise SystemExit("expected the jobs in the completed queue, too")
