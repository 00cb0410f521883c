"""Counts the processors that this process may use: the smallest of these numbers.

- the processors of the machine, or the number set by `python -X cpu_count` or PYTHON_CPU_COUNT;
- the processors on which the process may run (`sched_getaffinity`);
- the processor time that its control groups may use, rounded up: half a processor counts as one.

Source: the kernel's documentation of cgroup v2 (`cpu.max`) and of CFS bandwidth control.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from .control_groups import folders, lines

if TYPE_CHECKING:
    from collections.abc import Iterator


def count() -> int:
    """Return the number of processors that this process may use, at least 1."""
    if hasattr(os, "process_cpu_count"):  # considers the affinity and PYTHON_CPU_COUNT
        allowed = os.process_cpu_count() or 1
    elif hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, quotas())]))


def quotas(root: str = os.sep) -> Iterator[float]:
    """Yield the limit of each control group of this process that has one, in processors.

    Args:
        root: The folder that has the system's `proc` and `sys`.
    """
    for version, folder in folders("cpu", root):
        quota = (_quota_v1 if version == 1 else _quota_v2)(folder)
        if quota is not None and quota > 0:
            yield quota


def _quota_v2(folder: str) -> float | None:
    for line in lines(os.path.join(folder, "cpu.max")):
        quota, period = line.split()
        return None if quota == "max" else int(quota) / int(period)
    return None


def _quota_v1(folder: str) -> float | None:
    quotas, periods = (
        lines(os.path.join(folder, f"cpu.cfs_{name}_us")) for name in ("quota", "period")
    )
    if not quotas or not periods:
        return None
    return int(quotas[0]) / int(periods[0])  # negative if unlimited: the quota is -1
