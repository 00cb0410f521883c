"""`starmapkw`: a job for each dict of keyword arguments, with options for all of them."""

import qmill


def greet(name: str, greeting: str = "Hello") -> str:
    return f"{greeting}, {name}!"


guests = [{"name": "Ada"}, {"name": "Grace", "greeting": "Welcome"}, {"name": "Alan"}]
with qmill.JobQueue(max_workers=2) as jobs:
    greetings = jobs.starmapkw(greet, guests, priority=1, timeout=30)
    results = [job.result() for job in greetings]

print(*results, sep="\n")
if results != ["Hello, Ada!", "Welcome, Grace!", "Hello, Alan!"]:
    raise SystemExit("expected three greetings, in the order of the guests")
