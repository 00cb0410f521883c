"""Checks of the arguments of job queues.

The errors name the argument, the value that it has, and the values that it may have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..packing.explain import describe
from ..packing.guesses import check_function


def as_args(args: Any) -> tuple[Any, ...]:
    """Return the arguments of a call as a tuple: a list or tuple as it is, another value alone."""
    if type(args) is tuple:
        return args
    if type(args) is list:
        return tuple(args)
    if args is None:
        return ()
    is_spread = isinstance(args, (list, tuple)) and not _is_record(args)
    return tuple(args) if is_spread else (args,)


def _is_record(value: Any) -> bool:
    """Return whether a tuple is one value: a named tuple, an `os.stat_result` or the like."""
    return hasattr(value, "_fields") or hasattr(value, "n_sequence_fields")


def as_kwargs(kwargs: Any) -> dict[str, Any] | None:
    """Return a copy of keyword arguments, None if there are none; TypeError if it is no mapping."""
    if not isinstance(kwargs, Mapping):
        raise TypeError(
            f"kwargs must be a mapping or None, not {type(kwargs).__name__} {describe(kwargs)}: "
            "put takes positional arguments as one tuple, as in put(pow, (2, 3)); submit takes "
            "them one by one, as in submit(pow, 2, 3)"
        )
    return dict(kwargs) or None


def check_callable(argument: str, value: Any) -> None:
    """Raise TypeError if a value is neither None nor a function that can be called."""
    if value is None:
        return
    if not callable(value):
        raise TypeError(
            f"{argument} must be callable or None, not {type(value).__name__} {value!r}"
        )
    check_function(argument, value)


def check_workers(value: Any) -> int:
    """Return a number of workers; TypeError or ValueError if it is none."""
    if check_int("max_workers", value, signed=True) < 1:
        raise ValueError(
            f"max_workers must be greater than 0; got {value!r} (None is as many as there are "
            "processors)"
        )
    return int(value)


def check_auto_stop(value: Any) -> float:
    """Return for how many seconds idle workers stay when all jobs are done."""
    if isinstance(value, bool):
        return 0.0 if value else math.inf
    return float(check_number("auto_stop", value, from_0=True, unit=" of seconds or a bool"))


def check_int(
    argument: str, value: Any, *, unit: str = "", above_0: bool = False, signed: bool = False
) -> int:
    """Return an int of at least 0, or at least 1, or any if `signed`; else raise an error."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{argument} must be an int{unit}, not {type(value).__name__} {value!r}")
    if not signed and value.__index__() < above_0:
        least = "greater than 0" if above_0 else "0 or more"  # "greater ..." is executors' wording
        raise ValueError(f"{argument} must be {least}; got {value!r}")
    return int(value)


def check_count(argument: str, value: Any, *, or_none: bool = False, unit: str = "") -> Any:
    """Return an int of at least 1, or None if that is allowed; else raise an error."""
    if value is None and or_none:
        return None
    return check_int(argument, value, above_0=True, unit=unit)


def check_number(
    argument: str, value: Any, *, from_0: bool = False, above_0: bool = False, unit: str = ""
) -> Any:
    """Return a number that is not NaN, of at least or above 0 if asked for; else raise."""
    if not isinstance(value, (int, float)) and not hasattr(value, "__float__"):
        raise TypeError(f"{argument} must be a number{unit}, not {type(value).__name__} {value!r}")
    if value != value:
        raise ValueError(f"{argument} must be a number; got {value!r}")
    if (from_0 and value < 0) or (above_0 and value <= 0):
        raise ValueError(
            f"{argument} must be {'0 or more' if from_0 else 'more than 0'}; got {value!r}"
        )
    return value


def bar_type(progress: Any) -> Callable[..., Any] | None:
    """Return the class of progress bars, or None; see `observe.progress.bar_type`."""
    if progress is None or progress is False:
        return None
    from ..observe import progress as bars

    return bars.bar_type(progress)
