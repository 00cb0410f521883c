"""A frozen program as its own interpreter: turns a copy of the program into a worker.

    program ── starts itself, --multiprocessing-fork pipe_handle=N ──> copy: freeze_support
            ── socket N: the work ─────────────────────────────────>         begin
            <── socket N: "b" (the program waits for that of its first copy)

A program made by PyInstaller, cx_Freeze or Nuitka has no `python -c`. So a worker is started as
`multiprocessing` does it: a copy of the program is started, and its work is sent through a socket.
The copy turns into a worker when it calls `freeze_support`. A program that has called that is
expected to call it in its copies, too. If the first copy does not, no other copy is started.

Each started process has an environment variable as a mark, until it begins its work. If a process
that still has the mark starts workers, it has not called `freeze_support` in time: it is a copy
that runs the program again. It gets an error, since otherwise each copy would start the next one,
for ever.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

MARK = "QMILL_STARTED_BY"
"""The environment variable that marks a process until it begins its work: the parent's pid."""

_HELPERS = (
    "from multiprocessing.resource_tracker import main",
    "from multiprocessing.forkserver import main",
)
"""The first words of the code with which multiprocessing starts its helper processes."""

_takes_part = False  # whether this frozen program has called `freeze_support`
_is_confirmed = False  # whether a copy of it has turned into a worker


def freeze_support() -> None:
    """Let a frozen program (PyInstaller, cx_Freeze, Nuitka) start its workers by itself.

    Call it as the first statement of the program's `if __name__ == "__main__":`, before arguments
    are parsed. In a process that was started as a worker, of qmill or of `multiprocessing`, it does
    the worker's work and does not return. In the program itself it returns at once. In a program
    that is not frozen it does nothing.

    A frozen program that does not call it forks its workers.
    """
    global _takes_part
    if not is_frozen():
        return
    _takes_part = True
    if "--multiprocessing-fork" in sys.argv[1:2]:
        from multiprocessing import spawn

        spawn.freeze_support()
    elif "-c" in sys.argv[1:-1]:
        code = sys.argv[sys.argv.index("-c", 1) + 1]
        if code.removeprefix("import sys; ").startswith(_HELPERS):
            exec(code)
            sys.exit()


def freeze_support_early() -> None:
    """Call `freeze_support` before the program's script has run.

    Except in a worker of multiprocessing: that needs the script's functions, which it looks up by
    name, so the script has to call `multiprocessing.freeze_support` after it has defined them.
    """
    global _takes_part
    if "--multiprocessing-fork" in sys.argv[1:2] and MARK not in os.environ:
        _takes_part = is_frozen()
    else:
        freeze_support()


def is_frozen() -> bool:
    """Whether `sys.executable` is this program instead of Python."""
    # Nuitka does not set sys.frozen, but defines `__compiled__` in modules that it has compiled.
    main = sys.modules.get("__main__")
    return bool(getattr(sys, "frozen", False)) or hasattr(main, "__compiled__")


def takes_part() -> bool:
    """Whether a copy of this frozen program turns into a worker."""
    return _takes_part


def tell(copy: socket.socket, work: bytes, kill: Callable[[], object]) -> bool:
    """Send a copy of this program its work; wait until the first copy begins.

    Args:
        copy: The socket to the copy.
        work: The pickles that the copy loads.
        kill: Kills the copy.

    Returns:
        Whether a copy has begun its work. If not, the copy has ended, and from then on
        `takes_part` is false.
    """
    global _takes_part, _is_confirmed
    from . import threads

    try:
        with threads.cut_off_by(kill):
            copy.sendall(work)
            has_begun = _is_confirmed or bool(copy.recv(1))
        _is_confirmed = has_begun
    except ConnectionError:
        pass
    _takes_part = _is_confirmed
    return _is_confirmed


def begin(main: Callable[..., Any], arguments: tuple[Any, ...], starter: int | None = None) -> Any:
    """Call the function for which this process was started, and return its result.

    Args:
        main: The function.
        arguments: Its arguments.
        starter: In a frozen program, the descriptor of the socket to the parent (see `tell`).
    """
    global _takes_part, _is_confirmed
    os.environ.pop(MARK, None)
    _takes_part = _is_confirmed = True  # this process is a copy that has turned into a worker
    if starter is not None:
        from socket import MSG_NOSIGNAL, socket

        with socket(fileno=starter) as there:
            try:
                there.send(b"b", MSG_NOSIGNAL)
            except OSError:  # the parent does not wait for it
                pass
    return main(*arguments)


def check_has_begun() -> None:
    """Check that this process may start others.

    Raises:
        RuntimeError: This process was started as a worker, but runs the program instead.
    """
    if starter := os.environ.get(MARK):
        raise RuntimeError(
            f"this process was started by process {starter} to be a worker, but has run the "
            "program instead. It may not start workers, since that would never end. Call "
            '`qmill.freeze_support()` first of all in the program\'s `if __name__ == "__main__":`'
        )
