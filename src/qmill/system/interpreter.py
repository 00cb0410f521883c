"""Starts another process of this program's interpreter, if the interpreter is known.

`sys.executable` is not always Python. In a frozen program it is the program itself; in a program
that embeds Python (uwsgi, Blender, one in C) it may be that program, empty, None, or another
Python. Running it to find out could run a second copy of a foreign program. So one of these is
required:

- the file has a name of Python, and it is the file that this process runs, or the command by which
  this process was started, or it is in the `bin` folder of this installation;
- the program has chosen the file by `multiprocessing.set_executable`;
- the program is frozen and has called `freeze_support`.

Otherwise no interpreter is started, and processes are forked.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess  # not inside functions: a child forked during the import would get half of it
import sys
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..errors import NotSupported
from . import frozen, module_path, native, threads

if TYPE_CHECKING:
    from collections.abc import Callable


def is_known() -> bool:
    """Whether a process can be started in another way than by a fork."""
    return frozen.takes_part() if frozen.is_frozen() else _find_python() is not None


def is_known_to_multiprocessing() -> bool:
    """Whether the executable that multiprocessing would start is known as well."""
    if frozen.is_frozen():
        return frozen.takes_part()
    chosen = _chosen_for_multiprocessing()
    return bool(chosen) and os.fsdecode(chosen) == _find_python()


def check_known() -> None:
    """Check that this program's interpreter can be started again.

    Raises:
        NotSupported: The interpreter is not known. The text says how to name it.
    """
    if is_known():
        return
    if frozen.is_frozen():
        raise NotSupported(
            "this frozen program has not called `qmill.freeze_support()`, so a copy of it would "
            'run the program again. Call that first of all in its `if __name__ == "__main__":`'
            + _OR_FORK
        )
    raise NotSupported(
        f"sys.executable is {sys.executable!r}, which may not be the Python that runs this "
        "program. Name that by `multiprocessing.set_executable(path)`" + _OR_FORK
    )


_OR_FORK = ", or use start_method='fork'" if hasattr(os, "fork") else ""


def start(
    main: Callable[..., Any],
    arguments: tuple[Any, ...],
    fds: list[int],
    *,
    without_site: bool = False,
    **options: Any,
) -> native.Started:
    """Start an interpreter like this one that calls a function of this package.

    Args:
        main: A global function of a module.
        arguments: Its arguments: numbers, strings, lists of them.
        fds: The descriptors that the process inherits.
        without_site: Whether it skips `site`, and so all code that an installation runs at the
            start of each interpreter. A copy of a frozen program has none.
        options: Further options, as for `subprocess.Popen`. By default the process has this one's
            folder, or the root folder if that has been removed.

    Raises:
        NotSupported: The interpreter is not known, see `check_known`.
        OSError: The system refuses another process; or a copy of the frozen program has run the
            program again, and from then on no other copy is started.
        RuntimeError: This process is such a copy.
    """
    frozen.check_has_begun()
    check_known()
    # Some interpreters do not start in a removed folder.
    options.setdefault("cwd", None if folder() else os.sep)
    options["env"] = {**os.environ, frozen.MARK: str(os.getpid())}
    if frozen.is_frozen():
        return _start_program(main, arguments, fds, options)
    path = [str(entry) for entry in module_path.folders()]
    code = f"import sys; sys.path[:] = {path!a}; from {frozen.__name__} import begin; "
    code += f"from {main.__module__} import {main.__name__} as m; begin(m, {arguments!a})"
    python = _find_python()
    assert python is not None
    flags = [*_flags(), "-S"] if without_site else _flags()
    return _start_command([python, *flags, "-c", code], fds, options)


def folder() -> str | None:
    """Return the current folder; None if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _flags() -> list[str]:
    """Return the command-line flags with which this interpreter was started."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    given = {flag.partition("=")[0] for flag in flags}
    for name, value in sys._xoptions.items():
        if name not in given:
            flags += ["-X", name if value is True else f"{name}={value}"]
    return flags


def _start_program(
    main: Callable[..., Any], arguments: tuple[Any, ...], fds: list[int], options: dict[str, Any]
) -> native.Started:
    """Start the frozen program as multiprocessing does, and send it a function to call."""
    from multiprocessing import spawn

    # The copy unpickles two objects: settings, and an object whose `_bootstrap` it calls.
    work = SimpleNamespace(_bootstrap=partial(frozen.begin, main, arguments))
    told = pickle.dumps({}) + pickle.dumps(work)
    ours, theirs = native.socketpair()
    with ours:
        with theirs:
            command = spawn.get_command_line(tracker_fd=None, pipe_handle=theirs.fileno())
            started = _start_command(command, [*fds, theirs.fileno()], options)
        try:
            has_begun = frozen.tell(ours, told, started.kill)
        except BaseException:
            _end(started)
            raise
    if not has_begun:
        _end(started)
        raise ChildProcessError(
            f"{sys.executable} was started to be a worker, but ran the program instead. "
            "`qmill.freeze_support()` must be called always, and before anything else"
        )
    return started


def _end(process: native.Started) -> None:
    process.kill()
    process.wait()


def _start_command(command: list[str], fds: list[int], options: Any) -> native.Started:
    def start() -> native.Started:
        # The process unblocks SIGINT when it can handle it; Ctrl-C would interrupt its imports.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return native.start_program(command, fds, options)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    return threads.shielded(start, _end)


# -- is it a Python? ---------------------------------------------------------------------------

_NAMES = ("python", "pypy", "graalpy")
_BUILDS = ("dbg", "debug", "intel64", "c")  # in python3-dbg, python3-intel64, pypy3.10-c

_looked_at: tuple[Any, str | None] | None = None


def _find_python() -> str | None:
    """Return the path of a Python like the one that runs here; None if none is known."""
    global _looked_at
    chosen = _chosen_for_multiprocessing()
    key = chosen, sys.executable, sys.prefix, sys.base_prefix
    if _looked_at is None or _looked_at[0] != key:
        _looked_at = key, _look(os.fsdecode(chosen) if chosen else "", sys.executable or "")
    return _looked_at[1]


def _chosen_for_multiprocessing() -> Any:
    # No import here: a program that has not imported it cannot have set the executable.
    return getattr(sys.modules.get("multiprocessing.spawn"), "get_executable", lambda: None)()


def _look(chosen: str, executable: str) -> str | None:
    # By default, multiprocessing has the value that sys.executable had when it was imported.
    if chosen not in ("", executable) and (_is_python(chosen) or not _runs_here(chosen)):
        return chosen
    return executable if _is_python(executable) else None


def _is_python(path: str) -> bool:
    """Whether there is evidence that a file is the Python that runs here."""
    real = os.path.realpath(path)
    if not (_is_name(path) or _is_name(real)) or not os.access(path, os.X_OK):
        return False
    return _runs_here(path) or (
        _has_version(real) and (_is_of_installation(path, real) or _is_command(path))
    )


def _is_name(path: str) -> bool:
    name, _, build = os.path.basename(path).lower().removesuffix(".exe").partition("-")
    stem = name.rstrip("dmtuw").rstrip("0123456789.")
    return stem in _NAMES and (not build or build in _BUILDS)


def _has_version(path: str) -> bool:
    """Whether a file's name (python3.12) has the version that runs here, or no version at all."""
    digits = os.path.basename(path).lower().lstrip("abcdefghijklmnopqrstuvwxyz")
    told = digits.partition("-")[0].rstrip("dmtuw").removesuffix(".exe").split(".")
    return told == [""] or told == list(map(str, sys.version_info[: len(told)]))


def _runs_here(path: str) -> bool:
    """Whether a file is the program of this process."""
    try:
        return os.path.samefile(path, "/proc/self/exe")
    except OSError:  # no such file, or no /proc
        return False


def _is_of_installation(path: str, real: str) -> bool:
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    folders = {os.path.dirname(path), os.path.dirname(real)}
    return any(os.path.join(prefix, "bin") in folders for prefix in prefixes)


def _is_command(path: str) -> bool:
    """Whether a file is the command that started this process, such as a script around Python."""
    import shutil

    command = shutil.which(sys.orig_argv[0]) if sys.orig_argv else None
    try:
        return command is not None and os.path.samefile(path, command)
    except OSError:
        return False
