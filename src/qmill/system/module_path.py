"""Makes this program's modules importable in another process.

`sys.path` may have relative entries: '' in a console, under `python -c` or in a notebook, or a
folder that the program has added. The program imported modules through such an entry relative to
the working directory of that moment. So another process gets absolute paths, which also hold after
an `os.chdir`.

A module that the program has loaded from a file itself (`importlib.util.spec_from_file_location`)
cannot be found through any entry. Another process gets the module's file, and imports it from
there.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # `typing` takes longer to import than all the rest
if TYPE_CHECKING:
    from typing import Any


def folders() -> list[Any]:
    """Return `sys.path` with absolute paths.

    The entry '' stays, for later imports. Before it come the folders in which it has found modules
    so far, under any working directory.
    """
    path: list[Any] = []
    entry: Any  # not always a str: importers ignore other objects
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
    """Make a path absolute.

    It is relative to the working directory or, if it exists only there, to the working directory in
    which the program was started.
    """
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
    """Return the folder of an entry as it was at the entry's first use, as in the import system."""
    found = getattr(sys.path_importer_cache.get(entry), "path", None)
    return found if isinstance(found, str) and os.path.isabs(found) else absolute(entry)


_found: tuple[object, list[str]] | None = None  # the cached result, after its state of modules


def _found_in() -> list[str]:
    """Return the folders in which modules were found, except those that `sys.path` names."""
    global _found
    state = _newest()
    if _found is None or _found[0] is None or _found[0] != state:
        named = set(map(str, sys.path))
        folders = dict.fromkeys(
            folder
            for name, module in list(sys.modules.items())
            if "." not in name
            for folder in _folders_of(module)
            if folder not in named and folder in sys.path_importer_cache
        )
        _found = state, list(folders)
    return _found[1]


def _folders_of(module: Any) -> list[str]:
    """Return the folders in which a module is found, as entries for `sys.path`."""
    spec: Any = getattr(module, "__spec__", None)
    try:
        if spec.submodule_search_locations is not None:
            return [os.path.dirname(place) for place in spec.submodule_search_locations]
        return [os.path.dirname(spec.origin)] if spec.has_location else []
    except (AttributeError, TypeError):  # not a real module, or made by another tool
        return []


# -- modules that are loaded by their files -------------------------------------------------------

_files: dict[str, tuple[str, bool]] = {}
_looked_at: set[str] = set()
_state: object = None  # the state of the loaded modules at that time, see `_newest`


def by_file() -> dict[str, tuple[str, bool]]:
    """Return the modules of this program that cannot be found through `sys.path`.

    Returns:
        For each name the module's file, and whether the module is a package.
    """
    global _state
    state = _newest()
    if state is None or state != _state:
        _state = state
        for name in sys.modules.keys() - _looked_at:
            _looked_at.add(name)
            file = _own_file(name, sys.modules.get(name))
            if file is not None:
                _files[name] = file
    return _files


def _newest() -> object:
    """Return the number of loaded modules and the last one's name; a new module changes these."""
    try:
        return len(sys.modules), next(reversed(sys.modules))
    except RuntimeError:  # another thread has just imported one
        return None


def _own_file(name: str, module: Any) -> tuple[str, bool] | None:
    """Return the file of a module that cannot be found through `sys.path`, else None."""
    spec: Any = getattr(module, "__spec__", None)
    if not _folders_of(module) or not hasattr(spec.loader, "get_filename") or spec.name != name:
        return None
    if not spec.origin or not os.path.isfile(spec.origin):
        return None
    found = find(name)
    if found is not None and found.origin == spec.origin:
        return None
    return absolute(spec.origin), spec.submodule_search_locations is not None


def find(name: str) -> Any:
    """Return the spec with which this process would now import a module; None if not found."""
    package = name.rpartition(".")[0]
    path = getattr(sys.modules.get(package), "__path__", None) if package else None
    for finder in sys.meta_path:
        try:
            found = finder.find_spec(name, path)
        except Exception:  # a finder of another library may raise
            continue
        if found is not None:
            return found
    return None


class _Finder:
    """Finds modules that the parent process has loaded from their files."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """Implement `importlib.abc.MetaPathFinder`."""
        if name not in _files:
            return None
        from importlib.util import spec_from_file_location

        file, is_package = _files[name]
        places = [os.path.dirname(file)] if is_package else None
        return spec_from_file_location(name, file, submodule_search_locations=places)


_finder: Any = _Finder()


def learn(files: dict[str, tuple[str, bool]]) -> None:
    """Let this process import modules that another process has loaded from their files."""
    _files.update(files)
    if files and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
