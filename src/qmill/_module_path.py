"""The folders in which this program finds its modules, as another process can find them.

`sys.path` may have entries that are relative: '' in a console, under `python -c` or in a notebook;
a folder that a program has put there. What the program imported through such an entry came from
where it was then. So another process is told whole paths, also after an `os.chdir`.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any


def folders() -> list[Any]:
    """Return `sys.path` with whole paths, but '', which stays for what is imported from now on.

    Before it come the folders in which it has found modules, whatever the working directory was.
    """
    path: list[Any] = []
    for entry in sys.path:
        if entry == "":
            path += [folder for folder in _found_in() if folder not in path]
            path.append(entry)
        elif isinstance(entry, str) and not os.path.isabs(entry):
            path.append(_whole(entry))
        else:
            path.append(entry)
    return path


def absolute(path: str) -> str:
    """Return a whole path: from the working directory, or the one in which the program began."""
    folder = sys.modules["qmill"]._first_folder
    if folder is not None and not os.path.isabs(path) and not os.path.exists(path):
        first = os.path.normpath(os.path.join(folder, path))
        if os.path.exists(first):
            return first
    try:
        return os.path.abspath(path)
    except OSError:  # the working directory has been removed
        return path


def _whole(entry: str) -> str:
    """Return the folder of an entry: the import system keeps to where it was when first used."""
    found = getattr(sys.path_importer_cache.get(entry), "path", None)
    return found if isinstance(found, str) and os.path.isabs(found) else absolute(entry)


_found: tuple[int, list[str]] | None = None  # the number of modules, and what came of them


def _found_in() -> list[str]:
    """Return the folders in which modules were found that no entry of `sys.path` names."""
    global _found
    if _found is None or _found[0] != len(sys.modules):
        named = {entry for entry in sys.path if isinstance(entry, str)}
        folders = dict.fromkeys(
            folder
            for name, module in list(sys.modules.items())
            if "." not in name
            for folder in _folders_of(module)
            if folder not in named and folder in sys.path_importer_cache
        )
        _found = len(sys.modules), list(folders)
    return _found[1]


def _folders_of(module: Any) -> list[str]:
    """Return where an entry of the module path has to point for a module to be found."""
    spec = getattr(module, "__spec__", None)
    try:
        if spec.submodule_search_locations is not None:
            return [os.path.dirname(place) for place in spec.submodule_search_locations]
        return [os.path.dirname(spec.origin)] if spec.has_location else []
    except (AttributeError, TypeError):  # the module is none, or another tool's
        return []
