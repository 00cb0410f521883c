"""A frozen program as its own interpreter: what it does when it is started to be a worker.

    program ── itself, --multiprocessing-fork pipe_handle=N ──> copy: freeze_support
            ── socket N: what to do ────────────────────────────>     begin
            <── socket N: "b", which the first copy is asked for ──

A program that PyInstaller, cx_Freeze or Nuitka has made has no `python -c`. So it is started as
`multiprocessing` starts it, and what is to run comes through a socket. `freeze_support` is where
the copy turns into the worker, and a program that has called it is taken to do so again. If its
first copy does not, it was the last.

Every process that is started is marked by an environment variable, until it begins its work. A
process that still has the mark when it wants to start others has missed `freeze_support`, and would
go on for ever: each copy of the program would start the next one.
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
"""The environment variable that a process has until it begins its work: the starter's number."""

_HELPERS = (
    "from multiprocessing.resource_tracker import main",
    "from multiprocessing.forkserver import main",
)
"""The beginnings of the code by which multiprocessing starts its helpers, which are no workers."""

_takes_part = False  # whether this frozen program has called `freeze_support`
_is_confirmed = False  # whether a copy of it has turned into a worker


def freeze_support() -> None:
    """Let a frozen program (PyInstaller, cx_Freeze, Nuitka) start its workers by itself.

    Call it first of all in the program's `if __name__ == "__main__":`, before arguments are parsed.
    In a process that was started to be a worker, of qmill or of `multiprocessing`, it does that
    work and does not return. In the program itself it returns at once. Where nothing is frozen it
    does nothing.

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
    """Do what `freeze_support` does, before the program's script has run.

    A worker that multiprocessing has started is left to the script: it looks up the script's
    functions by name, so these have to be there first.
    """
    global _takes_part
    if "--multiprocessing-fork" in sys.argv[1:2] and MARK not in os.environ:
        _takes_part = is_frozen()
    else:
        freeze_support()


def is_frozen() -> bool:
    """Whether `sys.executable` is not Python, but this program."""
    # Nuitka sets no sys.frozen, but has a name of its own in what it has compiled.
    main = sys.modules.get("__main__")
    return bool(getattr(sys, "frozen", False)) or hasattr(main, "__compiled__")


def takes_part() -> bool:
    """Whether this frozen program, started again, turns into a worker."""
    return _takes_part


def tell(copy: socket.socket, work: bytes) -> bool:
    """Tell a copy of this program what to do; of the first one it is awaited that it begins.

    Args:
        copy: The socket from which it reads that.
        work: What it unpickles.

    Returns:
        Whether it has begun. If not, it has ended, and this program takes part no more.
    """
    global _takes_part, _is_confirmed
    try:
        copy.sendall(work)
        _is_confirmed = _is_confirmed or bool(copy.recv(1))
    except ConnectionError:
        pass
    _takes_part = _is_confirmed
    return _is_confirmed


def begin(main: Callable[..., Any], arguments: tuple[Any, ...], starter: int | None = None) -> Any:
    """Do what this process was started for.

    Args:
        main: What runs.
        arguments: What it is called with.
        starter: In a frozen program, the socket of `tell`.
    """
    global _takes_part, _is_confirmed
    os.environ.pop(MARK, None)
    _takes_part = _is_confirmed = True  # that this process is here shows it
    if starter is not None:
        from socket import MSG_NOSIGNAL, socket

        with socket(fileno=starter) as there:
            try:
                there.send(b"b", MSG_NOSIGNAL)
            except OSError:  # nobody waits for it
                pass
    return main(*arguments)


def check_has_begun() -> None:
    """Refuse to start processes in one that was started to be a worker and is none.

    Raises:
        RuntimeError: This is a copy of a program, which that program has started as its worker.
    """
    if starter := os.environ.get(MARK):
        raise RuntimeError(
            f"this process was started by process {starter} to be a worker, and has run the "
            "program instead; it starts no workers, since that would never end. Call "
            '`qmill.freeze_support()` first of all in the program\'s `if __name__ == "__main__":`'
        )
