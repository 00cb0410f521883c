"""The control groups of this process: where their files are, in both versions.

Source: the kernel's documentation of control groups, versions 1 and 2.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterator


def folders(controller: str, root: str = os.sep) -> Iterator[tuple[int, str]]:
    """Yield the version and folder of each control group of this process and of its ancestors.

    Args:
        controller: The resource that the groups limit, such as "cpu" or "memory". A group of
            version 2 limits all resources.
        root: The folder that has the system's `proc` and `sys`.
    """
    mounts = _mounts(controller, root)
    for line in lines(os.path.join(root, "proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            version = 2
        elif controller in controllers.split(","):
            version = 1
        else:
            continue
        for top, point in mounts.get(version, ()):
            for folder in _and_above(path, top):
                yield version, os.path.join(root, point.lstrip(os.sep), folder)


def memory_files(root: str = os.sep) -> list[tuple[bytes, bytes, bytes]]:
    """List the files of each group with its memory's limit, use and details."""
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
        2: ("memory.max", "memory.current", "memory.stat"),
    }
    found = []
    for version, folder in folders("memory", root):
        most, used, details = (os.fsencode(os.path.join(folder, name)) for name in names[version])
        if os.path.exists(most):  # the topmost group of version 2 has none
            found.append((most, used, details))
    return found


def lines(path: str) -> list[str]:
    """Return the lines of a file; none if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _mounts(controller: str, root: str) -> dict[int, list[tuple[str, str]]]:
    """List the mounts of groups by version: the group at the mount's root, and the folder."""
    found: dict[int, list[tuple[str, str]]] = {}
    for line in lines(os.path.join(root, "proc/self/mountinfo")):
        before, _, after = line.partition(" - ")
        top, point = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            found.setdefault(2, []).append((top, point))
        elif kind == "cgroup" and controller in options.split(","):
            found.setdefault(1, []).append((top, point))
    return found


def _and_above(path: str, top: str) -> Iterator[str]:
    """Yield the folders of a group and its ancestors, relative to the mount of the group `top`."""
    names = [name for name in path.split("/") if name]
    above = [name for name in top.split("/") if name]
    if names[: len(above)] == above:
        names = names[len(above) :]
    elif ".." in names or above:  # the group is outside the mount: only the mount's root is seen
        names = []
    for number in range(len(names), -1, -1):
        yield os.path.join(*names[:number], "")
