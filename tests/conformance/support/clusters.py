"""A Dask cluster of processes, as a user starts it with the `dask` commands."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SUPPORT = Path(__file__).parent
LIMIT_S = 60
DASK = str(Path(sys.executable).with_name("dask"))


class Cluster:
    """A scheduler on the loopback interface, and workers of one thread each, under nannies.

    Args:
        folder: For their files.
        num_workers: How many workers there are at first.

    Attributes:
        address: The scheduler's.
        client: A client of the test's own.
    """

    def __init__(self, folder, num_workers):
        from distributed import Client

        self._folder = folder
        self._environ = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)]),
            "DASK_LOGGING__DISTRIBUTED": "critical",
        }
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self._programs = [self._start("scheduler", "--host", "127.0.0.1", "--port", str(port))]
        self._nannies = {}
        for number in range(num_workers):
            self.start_worker(f"worker{number}")
        self.client = Client(self.address, timeout=LIMIT_S, set_as_default=False)
        if num_workers:
            self.client.wait_for_workers(num_workers, timeout=LIMIT_S)

    def _start(self, what, *options):
        return subprocess.Popen(
            [DASK, what, "--no-dashboard", *options],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
        )

    def start_worker(self, name):
        """Start another worker; it joins when it is ready."""
        options = ["--name", name, "--nthreads", "1", "--local-directory", str(self._folder)]
        nanny = self._start("worker", self.address, *options)
        self._programs.append(nanny)
        self._nannies[name] = nanny

    def address_of(self, name):
        """Return a worker's address."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return next(address for address, known in workers.items() if known["name"] == name)

    def kill_worker(self, name):
        """SIGKILL a worker and its nanny, which would start it anew; returns its address."""
        address = self.address_of(name)
        pid = self.client.run(os.getpid, workers=[address])[address]
        self._nannies.pop(name).kill()
        os.kill(pid, signal.SIGKILL)
        return address

    def kill_scheduler(self):
        """SIGKILL the scheduler."""
        self._programs[0].kill()

    def retire_worker(self, name):
        """Have a worker leave in good order; returns its address."""
        address = self.address_of(name)
        self.client.retire_workers([address])
        return address

    def close(self):
        """End all."""
        self.client.close()
        for program in reversed(self._programs):
            program.terminate()
        for program in self._programs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(20)
            program.kill()
            program.wait()
