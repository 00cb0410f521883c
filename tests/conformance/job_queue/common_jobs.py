"""Jobs that several of the tests run, and looks at a queue."""

from __future__ import annotations


def make_fail():
    """Return a function that travels by value: a worker imports no module for it."""

    def fail(*_):
        raise KeyError("a key")

    return fail


fail = make_fail()


def outputs_of(jobs):
    return [job.output for job in jobs]


def sizes_of(jobs):
    """Return how many wait, work and are completed."""
    return tuple(jobs.size(**{part: True}) for part in ("waiting", "working", "completed"))


def run_all(jobs):
    jobs.start()
    assert jobs.wait() == 0


def take_ticket(tickets):
    """Return a function that fails for each False in the queue and then succeeds."""

    def take():
        if not tickets.get():
            raise KeyError("no luck")
        return "at last"

    return take
