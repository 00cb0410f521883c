"""Run the program on standard input in a Jupyter kernel: each paragraph of it is a cell.

What the kernel's process writes on standard error itself comes at the end, but for one complaint
of ipykernel about itself: on a busy machine it stops its event loop before its last task is over.
"""

from __future__ import annotations

import re
import sys
import tempfile
from typing import Any

from jupyter_client.manager import KernelManager

TIMEOUT_S = 30
LAST_TASK = re.compile(
    r"Task was destroyed but it is pending!\n"
    r"task: <Task pending .*Kernel\.dispatch_control\(\) .*>\n"
)


def show(message: dict[str, Any]) -> None:
    content = message["content"]
    if message["msg_type"] == "stream":
        print(content["text"], end="", file=getattr(sys, content["name"]))
    elif message["msg_type"] == "error":
        print(*content["traceback"], sep="\n", file=sys.stderr)


with tempfile.TemporaryFile("w+") as errors:
    manager = KernelManager(transport="ipc")  # over TCP it would warn that nothing is encrypted
    manager.start_kernel(stderr=errors)
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=TIMEOUT_S)
        for cell in sys.stdin.read().strip().split("\n\n"):
            client.execute_interactive(cell, allow_stdin=False, output_hook=show, timeout=TIMEOUT_S)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
        errors.seek(0)
        print(LAST_TASK.sub("", errors.read()), end="", file=sys.stderr)
