"""Packing of objects whose packed form may have a limited size."""

from __future__ import annotations

import io

from ..errors import SerializationError
from ..system import pickling as pickle
from ..system.interrupts import let_interrupt_through
from . import standard_library
from .explain import explain
from .serialize import Exports, InlineExports, careful_pickler, packing

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any


class _TooLargeError(Exception):
    """An object needs more bytes than the limit."""


class _LimitedFile(io.BytesIO):
    """A file in memory that holds `limit` bytes at most."""

    limit = 0

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > self.limit:
            raise _TooLargeError
        return super().write(data)


def dump_limited(
    obj: Any, exports: Exports | InlineExports, touched: list[Any] | None, limit: int
) -> bytes | None:
    """Pack an object, buffers included, unless that needs more than `limit` bytes.

    Args:
        obj: As for `dumps`.
        exports: As for `dumps`.
        touched: As for `dumps`.
        limit: The most bytes.

    Returns:
        A pickle that is equal for equal content; None if it would be longer than `limit`.

    Raises:
        SerializationError: As `dumps`.
    """
    packing.num_kept += 1
    try:
        return _dump_limited(obj, exports, touched, limit)
    finally:
        packing.num_kept -= 1


def _dump_limited(
    obj: Any, exports: Exports | InlineExports, touched: list[Any] | None, limit: int
) -> bytes | None:
    for make in (pickle.Pickler, careful_pickler()):
        file = _LimitedFile()
        file.limit = limit
        is_last = make is not pickle.Pickler
        more = (exports, None, touched, exports.apart) if is_last else (5,)
        try:
            make(file, *more).dump(obj)
        except _TooLargeError:
            return None
        except SerializationError:
            raise
        except BaseException as error:
            let_interrupt_through(error)
            if is_last or isinstance(error, RecursionError):
                raise explain(obj, error) from error
            continue
        data = file.getvalue()
        is_plain = b"__main__" not in data and b"__mp_main__" not in data
        if is_plain and not standard_library.needs_care(data):
            break
    return data
