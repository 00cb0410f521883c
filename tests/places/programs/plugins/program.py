"""A program that another one runs, and that goes elsewhere before it starts workers."""

import os

import qmill

FACTOR = 5


def times(x):
    return x * FACTOR


class Box:
    def __init__(self, content):
        self.content = content

    def times(self):
        return times(self.content)


def main():
    os.chdir("/")
    with qmill.JobQueue(1) as jobs:
        assert jobs.submit(times, 2).result(20) == 10
        assert jobs.submit(Box(2).times).result(20) == 10
        assert type(jobs.submit(Box, 2).result(20)) is Box
    assert qmill.run(times, 3).result(20) == 15
    return "ran"


if __name__ == "__main__":
    main()
