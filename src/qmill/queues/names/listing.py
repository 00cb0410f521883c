"""Lists and removes named queues, on every transport, for the command `qmill queues`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..portable import named_broker
from . import folders, name_files
from .name_files import ABANDONED, OPEN, SILENT, Found

if TYPE_CHECKING:
    from collections.abc import Iterator


def list_queues() -> list[Found]:
    """List this user's named queues, by name.

    Raises:
        PermissionError: There is no folder for named queues.
    """
    found: list[Found] = []
    for folder in _folders():
        with _listing(folder):
            found += _found_in(folder)
    return sorted(found, key=lambda each: (each.name, each.files))


def odd_entries() -> list[str]:
    """Describe the entries in the folders of named queues that are no files of a queue."""
    return [told for folder in _folders() for told in name_files.odd_entries(folder)]


def remove_leftovers() -> list[str]:
    """Remove the files of queues that killed processes have left; saved messages stay.

    Returns:
        The names of the removed queues.

    Raises:
        PermissionError: There is no folder for named queues.
    """
    removed = []
    for folder in _folders():
        with _listing(folder):
            for found in _found_in(folder):
                if found.state == ABANDONED:
                    _remove(found)
                    removed.append(found.name)
            for entry in name_files.entries(folder, ".new"):
                name_files.remove(os.path.join(folder, entry))
    return removed


def remove_queue(name: str) -> None:
    """Remove a queue that no process has open, with its unread messages.

    Args:
        name: Its name.

    Raises:
        LookupError: There is no queue of this name.
        ValueError: A process has it open.
        PermissionError: There is no folder for named queues.
    """
    is_there = False
    for folder in _folders():
        with _listing(folder):
            every = [each for each in _found_in(folder) if each.name == name]
            _remove_closed(name, every)
            is_there = is_there or bool(every)
    if not is_there:
        raise LookupError(f"there is no queue of the name {name!r}")


def _remove_closed(name: str, every: list[Found]) -> None:
    for found in every:
        if found.state in (OPEN, SILENT):
            by = ", ".join(map(str, found.holders))
            raise ValueError(
                f"the queue {name!r} is open{' in ' * bool(by)}{by}; "
                "Queue(name=...).unlink() takes its name from whoever has it open"
            )
    for found in every:
        _remove(found)


@contextmanager
def _listing(folder: str) -> Iterator[None]:
    with name_files.locked(folder):
        try:
            yield
        finally:
            name_files.tidy(folder)


def _folders() -> list[str]:
    return [folders.names_folder(), *folders.old_folders()]


def _found_in(folder: str) -> list[Found]:
    found = named_broker.found_in(folder)
    if name_files.entries(folder, ".ring", ".kept"):
        from ..shared import named_file

        found += named_file.found_in(folder)
    return found


def _remove(found: Found) -> None:
    for path in found.files:
        name_files.remove(path)
