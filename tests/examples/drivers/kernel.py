"""Run the program on standard input in a Jupyter kernel: each paragraph of it is a cell."""

from __future__ import annotations

import sys
from typing import Any

from jupyter_client.manager import KernelManager

TIMEOUT_S = 30


def show(message: dict[str, Any]) -> None:
    content = message["content"]
    if message["msg_type"] == "stream":
        print(content["text"], end="", file=getattr(sys, content["name"]))
    elif message["msg_type"] == "error":
        print(*content["traceback"], sep="\n", file=sys.stderr)


manager = KernelManager(transport="ipc")  # over TCP it would warn that nothing is encrypted
manager.start_kernel()
client = manager.blocking_client()
try:
    client.start_channels()
    client.wait_for_ready(timeout=TIMEOUT_S)
    for cell in sys.stdin.read().strip().split("\n\n"):
        client.execute_interactive(cell, allow_stdin=False, output_hook=show, timeout=TIMEOUT_S)
finally:
    client.stop_channels()
    manager.shutdown_kernel()
