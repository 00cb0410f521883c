"""Processes that do something again and again, are ended at random instants, and are replaced."""

from __future__ import annotations

import os
import random
import signal
from multiprocessing.connection import wait

import qmill

PATIENCE_S = 30.0


class Crew:
    """Processes that each tell after every step; as many at a time as there are functions.

    Args:
        functions: What the processes run: each is called with `step`, which it calls after every
            step of its work, and the seed of its own choices.
        seed: Of all choices.
    """

    def __init__(self, functions, seed):
        self._random = random.Random(seed)
        self._news, self._tell = os.pipe()
        self._workers = {}
        for function in functions:
            self._start(function)

    def _start(self, function):
        seed = self._random.randrange(1 << 30)
        worker = qmill.Worker(_work, (function, self._tell, seed), start_method="fork")
        self._workers[worker] = function

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self._workers:
            worker.kill()
            worker.join()
            worker.exception()
        self._workers.clear()
        os.close(self._news)
        os.close(self._tell)

    def rage(self, kills, signals=(signal.SIGKILL,), steps=20):
        """End so many, each after some steps of all of them."""
        for _ in range(kills):
            self.wait_for_steps(self._random.randint(1, steps))
            worker = self._random.choice(list(self._workers))
            os.kill(worker.pid, self._random.choice(signals))
            worker.join(PATIENCE_S)
            assert not worker.is_alive(), worker
            worker.exception()
            self._start(self._workers.pop(worker))

    def wait_for_steps(self, number):
        """Wait until the processes have made so many steps; an error of theirs is raised."""
        while number > 0:
            ended = {worker.sentinel: worker for worker in self._workers}
            ready = wait([self._news, *ended], PATIENCE_S)
            assert ready, f"no progress for {PATIENCE_S} s by {list(self._workers)}"
            for each in ready:
                if each in ended:
                    ended[each].result()
                    raise AssertionError(f"{ended[each]} has ended")
            if self._news in ready:
                number -= len(os.read(self._news, number))


def _work(function, news, seed):
    signal.signal(signal.SIGTERM, _exit)
    function(lambda: os.write(news, b"."), seed)


def _exit(*_):
    raise SystemExit(1)
