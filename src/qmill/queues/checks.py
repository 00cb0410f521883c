"""Checks of the arguments of queues; each names the argument, and the values that it may have."""

from __future__ import annotations

from collections.abc import Iterable

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any

NAME_MAX_BYTES = 200

MAXSIZE_MAX = 2**63 - 1


def check_maxsize(maxsize: object) -> int:
    """Return `maxsize` as an int from 0; raise TypeError or ValueError if it is no limit."""
    if isinstance(maxsize, bool) or not hasattr(type(maxsize), "__index__"):
        raise TypeError(
            f"maxsize must be an int (0 for no limit), not {type(maxsize).__name__} {maxsize!r}"
        )
    limit = max(0, int(maxsize))  # type: ignore[call-overload]
    if limit > MAXSIZE_MAX:
        raise ValueError(f"maxsize must be at most 2**63 - 1 (0 for no limit), not {maxsize!r}")
    return limit  # type: ignore[no-any-return]


def check_new_maxsize(maxsize: object) -> int | None:
    """Return a new queue's `maxsize` as `check_maxsize` does; None keeps the limit it has."""
    return None if maxsize is None else check_maxsize(maxsize)


def check_memory(size: object) -> int | None:
    """Return a `max_idle_memory` as None or an int from 0; raise TypeError or ValueError if not."""
    if size is None:
        return None
    if isinstance(size, bool) or not hasattr(type(size), "__index__"):
        raise TypeError(
            "max_idle_memory must be an int of bytes, or None for the default, not "
            f"{type(size).__name__} {size!r}"
        )
    if not 0 <= int(size) <= MAXSIZE_MAX:  # type: ignore[call-overload]
        raise ValueError(f"max_idle_memory must be from 0 to 2**63 - 1 bytes, not {size!r}")
    return int(size)  # type: ignore[call-overload, no-any-return]


def check_wait(block: bool, timeout: float | None) -> float | None:
    """Return the seconds to wait: None is no limit, 0.0 does not wait."""
    if timeout is not None:
        if not hasattr(type(timeout), "__float__"):
            raise TypeError(
                "timeout must be a number of seconds or None, not "
                f"{type(timeout).__name__} {timeout!r}"
            )
        timeout = float(timeout)
        if not timeout >= 0:
            raise ValueError(f"timeout must be None or a non-negative number, not {timeout!r}")
    return timeout if block else 0.0


def check_max_items(max_items: object) -> int:
    """Return `max_items` as an int from 1; raise TypeError or ValueError if it is none."""
    if isinstance(max_items, bool) or not hasattr(type(max_items), "__index__"):
        raise TypeError(f"max_items must be an int, not {type(max_items).__name__} {max_items!r}")
    count = int(max_items)  # type: ignore[call-overload]
    if count < 1:
        raise ValueError(f"max_items must be at least 1, not {max_items!r}")
    return count  # type: ignore[no-any-return]


def check_items(items: Iterable[Any]) -> Iterable[Any]:
    """Return `items` if they are iterable; raise TypeError if not."""
    if not isinstance(items, Iterable):
        raise TypeError(f"items must be an iterable, not {type(items).__name__} {items!r}")
    return items


def check_name(name: object) -> str | None:
    """Return `name` if a queue can have it; raise TypeError or ValueError if not."""
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"name must be a str or None, not {type(name).__name__} {name!r}")
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= NAME_MAX_BYTES or "/" in name or "\0" in name or name in (".", ".."):
        shown = name if size <= NAME_MAX_BYTES else name[:40] + "..."
        raise ValueError(
            f"name must be 1 to {NAME_MAX_BYTES} bytes without '/' and NUL, not {shown!r} "
            f"({size} bytes)"
        )
    return name
