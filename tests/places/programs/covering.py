"""Runs `covered` in workers, where a tool counts lines."""

import multiprocessing
import sys

import covered

import qmill


def whoami():
    parent = multiprocessing.parent_process()
    return multiprocessing.current_process().name, parent and parent.name


def main():
    for method in sys.argv[1:]:
        with qmill.JobQueue(1, start_method=method) as jobs:
            jobs.submit(getattr(covered, f"by_{method}"), 1).result(30)
        # A worker is no process of multiprocessing, with the tool or without.
        worker = qmill.Worker(whoami, start_method=method)
        assert worker.result(30) == ("MainProcess", None), worker.result()
    worker = qmill.run(covered.with_an_end, 1)
    assert worker.result(30) == 1
    worker.join()
    assert worker.exitcode == 0
    worker = qmill.run(sys.exit, 3)
    worker.join()
    assert worker.exitcode == worker.exception().exitcode == 3
    multiprocessing.set_start_method("spawn")  # it raises if starting a worker has chosen one


if __name__ == "__main__":
    main()
