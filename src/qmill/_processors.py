"""Counts the processors that this process may use: the least that any limit allows.

- the machine's, or the number that `python -X cpu_count` or PYTHON_CPU_COUNT says instead;
- those that it may run on (`sched_getaffinity`);
- the time that its control groups may use: half a processor's time is rounded up to one.

Source: the kernel's documentation of cgroup v2 (`cpu.max`) and of CFS bandwidth control.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def count() -> int:
    """Return how many processors this process may use, at least 1."""
    if hasattr(os, "process_cpu_count"):  # which knows of the affinity and of PYTHON_CPU_COUNT
        allowed = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, quotas())]))


def quotas(root: str = os.sep) -> Iterator[float]:
    """Give how many processors' time each of this process's control groups may use, if limited.

    Args:
        root: Where the system's files are.
    """
    mounts = _mounts(root)
    for line in _lines(os.path.join(root, "proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            kind, read = "cgroup2", _quota_v2
        elif "cpu" in controllers.split(","):
            kind, read = "cpu", _quota_v1
        else:
            continue
        for top, point in mounts.get(kind, ()):
            for folder in _and_above(path, top):
                quota = read(os.path.join(root, point.lstrip(os.sep), folder))
                if quota is not None and quota > 0:
                    yield quota


def _mounts(root: str) -> dict[str, list[tuple[str, str]]]:
    """List where control groups are mounted: which group is at the top, and the folder."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in _lines(os.path.join(root, "proc/self/mountinfo")):
        before, _, after = line.partition(" - ")
        top, point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            found.setdefault(kind, []).append((top, point))
        elif kind == "cgroup" and "cpu" in options.split(","):
            found.setdefault("cpu", []).append((top, point))
    return found


def _and_above(path: str, top: str) -> Iterator[str]:
    """Give the folders of a group and of all above it, below where the group `top` is mounted."""
    names = [name for name in path.split("/") if name]
    above = [name for name in top.split("/") if name]
    if names[: len(above)] == above:
        names = names[len(above) :]
    elif ".." in names or above:  # it is not below that mount, whose own limit is all that is seen
        names = []
    for number in range(len(names), -1, -1):
        yield os.path.join(*names[:number], "")


def _quota_v2(folder: str) -> float | None:
    for line in _lines(os.path.join(folder, "cpu.max")):
        quota, period = line.split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _quota_v1(folder: str) -> float | None:
    quotas, periods = (
        _lines(os.path.join(folder, f"cpu.cfs_{name}_us")) for name in ("quota", "period")
    )
    if not quotas or not periods:
        return None
    return int(quotas[0]) / int(periods[0])  # a quota of -1 is none


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []
