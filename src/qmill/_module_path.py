"""Where this program has its modules from, as another process can find them.

`sys.path` may have entries that are relative: '' in a console, under `python -c` or in a notebook;
a folder that a program has put there. What the program imported through such an entry came from
where it was then. So another process is told whole paths, also after an `os.chdir`.

A module that a program has loaded from a file by itself (`importlib.util.spec_from_file_location`)
is found by no entry. Another process is told its file, and imports it from there.
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
    entry: Any  # importers tolerate what is no text
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


_found: tuple[object, list[str]] | None = None  # for which modules, and what came of them


def _found_in() -> list[str]:
    """Return the folders in which modules were found that no entry of `sys.path` names."""
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
    """Return where an entry of the module path has to point for a module to be found."""
    spec: Any = getattr(module, "__spec__", None)
    try:
        if spec.submodule_search_locations is not None:
            return [os.path.dirname(place) for place in spec.submodule_search_locations]
        return [os.path.dirname(spec.origin)] if spec.has_location else []
    except (AttributeError, TypeError):  # the module is none, or another tool's
        return []


# -- modules that are loaded by their files -------------------------------------------------------

_files: dict[str, tuple[str, bool]] = {}
_looked_at: set[str] = set()
_state: object = None  # of the modules when that was done


def by_file() -> dict[str, tuple[str, bool]]:
    """Return the modules of this program that are found by no path, by name.

    Returns:
        Of each its file, and whether it is a package.
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
    """Tell how many modules there are, and which was the last to come: another one changes it."""
    try:
        return len(sys.modules), next(reversed(sys.modules))
    except RuntimeError:  # another thread has just imported one
        return None


def _own_file(name: str, module: Any) -> tuple[str, bool] | None:
    """Return the file of a module that is found by no path; None for any other one."""
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
    """Return the spec under which this process would now import a module; None if it would not."""
    package = name.rpartition(".")[0]
    path = getattr(sys.modules.get(package), "__path__", None) if package else None
    for finder in sys.meta_path:
        try:
            found = finder.find_spec(name, path)
        except Exception:  # one of somebody's
            continue
        if found is not None:
            return found
    return None


class _Finder:
    """Finds the modules that a parent has loaded by their files."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """See `importlib.abc.MetaPathFinder`."""
        if name not in _files:
            return None
        from importlib.util import spec_from_file_location

        file, is_package = _files[name]
        places = [os.path.dirname(file)] if is_package else None
        return spec_from_file_location(name, file, submodule_search_locations=places)


_finder: Any = _Finder()


def learn(files: dict[str, tuple[str, bool]]) -> None:
    """Have modules found here that another process has loaded by their files."""
    _files.update(files)
    if files and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
