"""Which named queues there are, on any transport, and removing them: what `qmill queues` shows."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import named_broker, names, wire
from .names import ABANDONED, OPEN, SILENT, Found

if TYPE_CHECKING:
    from collections.abc import Iterator


def list_queues() -> list[Found]:
    """List this user's named queues, by name.

    Raises:
        PermissionError: The runtime folder is not private.
    """
    with _listing() as folder:
        return _found_in(folder)


def remove_leftovers() -> list[str]:
    """Remove what killed processes have left; what was saved is kept. Returns the queues' names.

    Raises:
        PermissionError: The runtime folder is not private.
    """
    with _listing() as folder:
        abandoned = [found for found in _found_in(folder) if found.state == ABANDONED]
        for found in abandoned:
            _remove(folder, found)
        for entry in os.listdir(folder):
            if entry.endswith(".new"):
                names.remove(os.path.join(folder, entry))
        return [found.name for found in abandoned]


def remove_queue(name: str) -> None:
    """Remove a queue that nobody has open, with what is unread in it.

    Args:
        name: Its name.

    Raises:
        LookupError: There is none of this name.
        ValueError: Somebody has it open.
        PermissionError: The runtime folder is not private.
    """
    with _listing() as folder:
        every = [each for each in _found_in(folder) if each.name == name]
        if not every:
            raise LookupError(f"there is no queue of the name {name!r}")
        for found in every:
            if found.state in (OPEN, SILENT):
                by = ", ".join(map(str, found.holders))
                raise ValueError(
                    f"the queue {name!r} is open{' in ' * bool(by)}{by}; "
                    "Queue(name=...).unlink() takes its name from whoever has it open"
                )
        for found in every:
            _remove(folder, found)


@contextmanager
def _listing() -> Iterator[str]:
    folder = wire.runtime_folder()
    with names.locked(folder):
        try:
            yield folder
        finally:
            names.tidy(folder)


def _found_in(folder: str) -> list[Found]:
    found = named_broker.found_in(folder)
    if any(entry.endswith((".ring", ".kept")) for entry in os.listdir(folder)):
        from . import named_file

        found += named_file.found_in(folder)
    return sorted(found)


def _remove(folder: str, found: Found) -> None:
    for file in found.files:
        names.remove(os.path.join(folder, file))
