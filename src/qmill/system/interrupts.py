"""Exceptions of signal handlers, which may be raised in the middle of any code."""

from __future__ import annotations

import threading

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any


def let_interrupt_through(error: BaseException) -> None:
    """Raise an exception again if a signal handler has raised it, such as Ctrl-C.

    Any other exception that an object raises while it is packed or rebuilt is the object's failure.
    """
    if is_interrupt(error):
        raise error


def is_interrupt(error: BaseException) -> bool:
    """Whether a signal handler has raised this exception: Python's for Ctrl-C, or the program's.

    Handlers run in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if isinstance(error, KeyboardInterrupt):
        return True
    import signal  # imported here, since it is needed for errors only

    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code not in handlers:
        trace = trace.tb_next
    return trace is not None


def _code_of(handler: Any) -> CodeType | None:
    """Return the code object that a signal handler runs; None if it is not written in Python."""
    from functools import partial

    while isinstance(handler, partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    if not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    code: CodeType | None = getattr(handler, "__code__", None)
    return code
