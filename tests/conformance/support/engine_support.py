"""What the engines' conformance tests stand on: the engines, and pipes to their jobs."""

from __future__ import annotations

import importlib.util
import os
import select

import engine_jobs

LIMIT_S = 40.0

HAS_DASK = importlib.util.find_spec("distributed") is not None

# A cluster's half is collected where its library is installed: `make test-all` has it.
ENGINES = ["thread", "process", "subprocess", *(["dask"] if HAS_DASK else [])]
KILLING = [name for name in ENGINES if name != "thread"]


class Pipe:
    """A named pipe: jobs write lines into it, or read permits from it."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path = str(path)
        self._file = os.open(path, os.O_RDWR)  # so that nobody has to wait for the other end
        self._rest = b""

    def hear(self):
        """Wait for the next line; returns its words."""
        while b"\n" not in self._rest:
            if not select.select([self._file], [], [], LIMIT_S)[0]:
                raise TimeoutError(f"no job said anything for {LIMIT_S} s")
            self._rest += os.read(self._file, 1 << 16)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode().split()

    def permit(self, number=1):
        """Let jobs end that wait."""
        os.write(self._file, b"p" * number)

    def close(self):
        os.close(self._file)


class Gate:
    """Jobs of `hold` say that they run, and run until they are permitted to end."""

    def __init__(self, folder):
        self.started = Pipe(folder / "started")
        self.permits = Pipe(folder / "permits")
        self.args = self.started.path, self.permits.path

    def put(self, jobs, function=engine_jobs.hold, *args, **options):
        """Put a job that waits."""
        return jobs.put(function, [*self.args, *args], **options)

    def hear(self):
        return self.started.hear()

    def close(self):
        self.permits.permit(100)  # whoever still waits, after a failure
        self.started.close()
        self.permits.close()
