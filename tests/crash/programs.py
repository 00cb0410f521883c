"""Programs of their own, threads, and ways to wait for other processes without a clock."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

LIMIT_S = 30.0
ROOT = Path(__file__).parents[2]

PRELUDE = """
import os, signal, sys, threading, time
import qmill
from tests.crash import broker_functions, functions, job_functions
signal.signal(signal.SIGINT, signal.default_int_handler)
def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


class Program:
    """`python -c` with a source that may use what PRELUDE has: `tell(*words)`, `functions`..."""

    def __init__(self, source, method, prelude=PRELUDE, **environ):
        environ = {
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "",
            "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",  # about fork with threads
            "QMILL_START_METHOD": method,
            **environ,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", prelude + source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | environ,
            encoding="utf-8",
            start_new_session=True,
        )
        self.pid = self._process.pid

    def hear(self):
        """Return the words of the next line."""
        line = self._process.stdout.readline()
        if not line:
            _, errors = self.finish()
            raise AssertionError(f"the program has ended ({self.exitcode}):\n{errors}")
        return line.split()

    def hear_pids(self):
        return [int(word) for word in self.hear()]

    def tell(self, line=""):
        """Let a program go on that waits in `input()`."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def interrupt_group(self):
        """Do what a terminal does at Ctrl-C."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self):
        self._process.kill()
        self._process.wait()

    @property
    def exitcode(self):
        return self._process.returncode

    def finish(self):
        """Wait for the end: standard output (the rest) and standard error."""
        return self._process.communicate(timeout=LIMIT_S)

    def clean_up(self):
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._process.stderr):
            file.close()


class Watch:
    """Processes that are to end."""

    def __init__(self, pids):
        self._pidfds = {os.pidfd_open(pid): pid for pid in pids}

    def wait(self):
        """Wait until all have ended; return those that do not."""
        poll = select.poll()
        for pidfd in self._pidfds:
            poll.register(pidfd, select.POLLIN)
        left = dict(self._pidfds)
        while left and (ended := poll.poll(10_000)):
            for pidfd, _ in ended:
                poll.unregister(pidfd)
                del left[pidfd]
        for pidfd in self._pidfds:
            os.close(pidfd)
        return list(left.values())


class Call:
    """A call in a thread of its own."""

    def __init__(self, function, *args, **kwargs):
        self._outcome = None
        self._thread = threading.Thread(
            target=self._run, args=(function, args, kwargs), daemon=True
        )
        self._thread.start()

    def _run(self, function, args, kwargs):
        try:
            self._outcome = function(*args, **kwargs), None
        except BaseException as error:
            self._outcome = None, error

    def result(self):
        """Wait for what the call returned or raised."""
        self._thread.join(LIMIT_S)
        if self._outcome is None:
            raise TimeoutError(f"no end after {LIMIT_S} s")
        value, error = self._outcome
        if error is not None:
            raise error
        return value

    def wait_until_blocked(self):
        try:
            wait_until_asleep(os.getpid(), self._thread.native_id)
        except FileNotFoundError:  # it has ended
            self._thread.join()
        assert self._outcome is None, f"should wait, but it is over: {self._outcome}"
        return self


def wait_until(condition):
    """Wait for what nobody tells."""
    for _ in range(int(LIMIT_S * 200)):
        if condition():
            return
        threading.Event().wait(0.005)
    raise TimeoutError("the condition never came true")


def wait_until_asleep(pid, thread=None):
    """Wait until a process's (main) thread sleeps in the kernel, and keeps sleeping."""
    seen = []

    def asleep():
        status = Path(f"/proc/{pid}/task/{thread or pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        seen.append(fields["voluntary_ctxt_switches"])
        return fields["State"].startswith("S") and len(seen) > 3 and len(set(seen[-4:])) == 1

    wait_until(asleep)


def descriptors():
    """Return what the open descriptors are, but for the one that listing them takes."""
    kinds = []
    for name in os.listdir("/proc/self/fd"):
        try:
            kinds.append(os.readlink(f"/proc/self/fd/{name}").partition(":")[0])
        except FileNotFoundError:
            pass
    return sorted(kinds)
