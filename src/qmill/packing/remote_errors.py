"""Errors that cross from one process to another, with the traceback as a text."""

from __future__ import annotations

from ..errors import SerializationError
from ..system import pickling as pickle
from ..system.interrupts import let_interrupt_through
from .explain import describe, traceback_text
from .serialize import InlineExports, dumps, loads

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any


# -- errors that cross -------------------------------------------------------------------------


class RemoteTraceback(Exception):
    """The text of a traceback in another process: the cause of the exception raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


def dump_error(error: BaseException) -> bytes:
    """Pack an exception with the text of its traceback; never raises for an odd exception."""
    text = traceback_text(error)
    described = f"{type(error).__module__}.{type(error).__qualname__}: {describe(error, str)}"
    _drop_tracebacks(error)
    try:
        packed: bytes | bytearray | None = dumps(error, InlineExports())
    except BaseException as why:
        let_interrupt_through(why)
        packed = None
    return pickle.dumps((packed, described, text), 5)


def _drop_tracebacks(error: BaseException) -> None:
    """Remove the tracebacks of an exception and of its causes and parts.

    pickle ignores tracebacks, unless tblib, which comes with distributed, has registered a reducer
    for them. That packs each frame, which fails after a deep recursion.
    """
    seen, left = set(), [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        # Through the base class, since an exception's own class may override attributes.
        BaseException.with_traceback(each, None)
        links: tuple[Any, ...] = BaseException.__cause__, BaseException.__context__
        for link in links:
            if (other := link.__get__(each)) is not None:
                left.append(other)
        if issubclass(type(each), BaseExceptionGroup):
            left += BaseExceptionGroup.exceptions.__get__(each)


def not_rebuilt(error: BaseException) -> SerializationError:
    """Return the failure of a call whose result raised this error when it was rebuilt."""
    if isinstance(error, SerializationError):
        return error
    return SerializationError(f"the result could not be rebuilt: {type(error).__name__} was raised")


def load_error(data: bytes | bytearray | memoryview) -> BaseException:
    """Rebuild an exception, with its remote traceback as its cause.

    Returns:
        The exception. If it cannot be rebuilt here, a `SerializationError` that names its type and
        text.
    """
    packed, described, text = pickle.loads(data)
    error: BaseException
    try:
        if packed is None:
            raise SerializationError("it could not be pickled")
        error = loads(packed)
        if not isinstance(error, BaseException):
            raise SerializationError(f"it was rebuilt as {type(error).__name__}")
    except BaseException as why:
        let_interrupt_through(why)
        error = SerializationError(
            f"an exception was raised that cannot be rebuilt in this process ({why}): {described}"
        )
    # Not by assignment, which an exception's class may refuse.
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(text))
    return error
