"""The inputs of a run, one at a time: words of the command line, or lines of standard input."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_READ_BYTES = 1 << 16


def read_items(source: int, delimiter: bytes, wake: int) -> Iterator[str]:
    """Read the items between delimiters; the last one may have no delimiter after it.

    Args:
        source: A file descriptor.
        delimiter: One byte.
        wake: A descriptor; the reading ends when it becomes readable.

    Yields:
        The items as str; undecodable bytes are kept as `os.fsdecode` keeps them.

    Raises:
        OSError: The source cannot be read.
    """
    parts: list[bytes] = []
    while True:
        if wake in select.select([source, wake], [], [])[0]:
            return
        data = os.read(source, _READ_BYTES)
        if not data:
            break
        *whole, rest = data.split(delimiter)
        for item in whole:
            parts.append(item)
            yield os.fsdecode(b"".join(parts))
            parts.clear()
        if rest:
            parts.append(rest)
    if parts:
        yield os.fsdecode(b"".join(parts))
