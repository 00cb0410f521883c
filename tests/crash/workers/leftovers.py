"""Messages and processes that others have left."""

from __future__ import annotations

import os
import signal

from ..programs import Watch


def data_of(messages):
    return [message.data for message in messages]


STARTS_OTHERS = """
import subprocess
def start_another(n, **how):
    other = subprocess.Popen(["sleep", "600"], **how)
    print(other.pid, flush=True)
    other.wait()
"""


def pids_left_by(program):
    pids = [pid for _ in range(2) for pid in program.hear_pids()]
    watch = Watch(pids)
    program.kill()
    left = watch.wait()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left
