"""Exceptions of signal handlers at every point where CPython runs them.

CPython looks for signals when a Python function begins, at a jump backwards, and after a call of a
function in C: never between two other instructions. The exception is then raised by that point's
instruction. A trace function sees each instruction before it runs, so `interrupt` raises one later:
where other handlers are in force for that one, as after the last call in a `with`, it does not.
"""

from __future__ import annotations

import dis
import functools
import sys

_POINTS = ("RESUME", "JUMP_BACKWARD", "CALL")


class Interrupted(BaseException):
    """What the handler raises."""


class _Tracer:
    def __init__(self, number, is_ours):
        self.left = number
        self._is_ours = is_ours
        self._last = {}  # by frame: the instruction before

    def __call__(self, frame, event, _):
        if frame.f_back in self._last:
            self._last[frame.f_back] = None  # the end of a function in Python is no such point
        if not self._is_ours(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self._last[frame] = frame.f_lasti  # RESUME, of which there is no other event
        return self._trace

    def _trace(self, frame, event, _):
        if event == "exception":
            self._last[frame] = None  # what failed is no call that has returned
        elif event == "return":
            self._last.pop(frame, None)
        elif event == "opcode":
            before, self._last[frame] = self._last.get(frame), frame.f_lasti
            if before is not None and _is_point(frame.f_code, before, frame.f_lasti):
                self.left -= 1
                if self.left == 0:
                    raise Interrupted
        return self._trace


@functools.cache
def _is_point(code, at, next_at):
    return dis.opname[code.co_code[at]].startswith(_POINTS) and (
        _handler_of(code, at) == _handler_of(code, next_at)
    )


def _handler_of(code, at):
    """Return where an exception goes that an instruction raises."""
    entries = dis._parse_exception_table(code)
    return next((e.target for e in reversed(entries) if e.start <= at < e.end), None)


def is_qmill(file):
    """Whether a file is of the package."""
    return "/qmill/" in file and "/tests/" not in file


def interrupt(number, function, *args, is_ours=is_qmill):
    """Call a function and raise `Interrupted` at the so manieth point, if there are so many.

    Returns:
        Whether there were, and what the function returned, or None.

    Raises:
        Exception: Another one than `Interrupted` has come out.
    """
    tracer = _Tracer(number, is_ours)
    result = None
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        result = function(*args)
    except Interrupted:
        pass
    finally:
        sys.settrace(before)
    return tracer.left <= 0, result


def interruptions(function, is_ours=is_qmill):
    """Interrupt calls of a function at the first point, the second, until there is none left.

    Args:
        function: Makes the call of a new thing: called once for each point, it returns a function
            without arguments.

    Yields:
        The point's number, and what the function has returned, or None.
    """
    number, reached = 0, True
    while reached:
        number += 1
        reached, result = interrupt(number, function(), is_ours=is_ours)
        if reached:
            yield number, result
