"""Run the program on standard input in a Jupyter kernel: each paragraph of it is a cell.

What the kernel's process writes on standard error itself comes at the end, but for complaints of
ipykernel about itself: on a busy machine it stops its event loop, or closes a socket, before its
last task is over.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

from jupyter_client.manager import KernelManager

import qmill

TIMEOUT_S = 30
OURS = qmill.__path__[0]


def is_ipykernels_own(complaint: str) -> bool:
    """Whether what was written while the kernel ended has nothing to do with qmill."""
    return "ipykernel" in complaint and OURS not in complaint


def show(message: dict[str, Any]) -> None:
    content = message["content"]
    if message["msg_type"] == "stream":
        print(content["text"], end="", file=getattr(sys, content["name"]))
    elif message["msg_type"] == "error":
        print(*content["traceback"], sep="\n", file=sys.stderr)


with tempfile.TemporaryFile("a+") as errors:
    # Over TCP it would warn that nothing is encrypted; sockets lie beside the file.
    connection = os.path.join(os.environ["JUPYTER_RUNTIME_DIR"], "kernel.json")
    manager = KernelManager(transport="ipc", connection_file=connection)
    manager.start_kernel(stderr=errors)
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=TIMEOUT_S)
        for cell in sys.stdin.read().strip().split("\n\n"):
            client.execute_interactive(cell, allow_stdin=False, output_hook=show, timeout=TIMEOUT_S)
    finally:
        client.stop_channels()
        errors.seek(0)
        print(errors.read(), end="", file=sys.stderr)
        written = errors.tell()
        manager.shutdown_kernel()
        errors.seek(written)
        if not is_ipykernels_own(complaint := errors.read()):
            print(complaint, end="", file=sys.stderr)
