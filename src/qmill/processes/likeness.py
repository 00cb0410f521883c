"""Copies process-wide settings from a process to its children: warning filters, limits, locale ...

A forked process inherits its parent's memory. A process of another start method gets, through this
module, the settings that users think of as the program's: warning filters, limits, umask, niceness
and the like. Children of a fork server get the settings of the moment of their start, since the
server itself was started earlier.

State in the memory of a library (a decimal context, signal handlers, the seed of a random
generator) is not copied; docs/places.md lists it.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from typing import Any

if sys.platform != "win32":
    # Here, for `os.wait4` imports it: if another thread forks meanwhile, the child waits for ever.
    import resource

Likeness = dict[str, Any]
"""The settings of a process by name, as objects that every process can unpickle."""

_IGNORABLE = [
    getattr(signal, name)
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCHLD")
    + ("SIGALRM", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGWINCH")
    if hasattr(signal, name)
]
"""Signals that a program may ignore. By POSIX, a process that it starts ignores them as well."""


def of_this_process() -> Likeness:
    """Return the present settings of this process and this thread."""
    return {
        "warning filters": _filters(),
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "digits": sys.get_int_max_str_digits(),
        "bytecode": (sys.dont_write_bytecode, sys.pycache_prefix),
        "umask": _umask(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else None,
        "processors": os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        "ignored signals": [n for n in _IGNORABLE if signal.getsignal(n) is signal.SIG_IGN],
        "resource limits": _limits() if sys.platform != "win32" else None,
        "locale": _locale() if "locale" in sys.modules else None,
        "fault handler": _has_fault_handler(),
    }


def take_on(told: Likeness) -> None:
    """Apply another process's settings to this process, as far as the system allows."""
    for name, take in _TAKES.items():
        if told[name] is not None:
            try:
                take(told[name])
            except (OSError, ValueError, RecursionError):
                pass  # the system refuses, say, a lower niceness to an unprivileged process


# -- warning filters -----------------------------------------------------------------------------


class _Pattern:
    """A regular expression of a filter, compiled only when a warning is compared with it."""

    def __init__(self, pattern: str, flags: int) -> None:
        self.pattern = pattern
        self.flags = flags

    def match(self, text: str) -> Any:
        """Match as `re.Pattern.match`; `re` caches the compiled pattern."""
        import re

        return re.match(self.pattern, text, self.flags)


class _ByName(type):
    """The metaclass of stand-ins for warning categories, so that these need not be imported.

    A stand-in recognises the category and its subclasses by name.
    """

    def __subclasscheck__(cls, other: type) -> bool:
        wanted = cls.__module__, cls.__qualname__
        return any((each.__module__, each.__qualname__) == wanted for each in other.__mro__)


def _filters() -> list[tuple[Any, ...]]:
    """Return the active warning filters as plain objects."""
    in_force: Any = getattr(warnings, "_get_filters", lambda: warnings.filters)()
    return [
        (action, _plain(message), (kind.__module__, kind.__qualname__), _plain(module), line)
        for action, message, kind, module, line in in_force
    ]


def _plain(pattern: Any) -> Any:
    return pattern if pattern is None or type(pattern) is str else (pattern.pattern, pattern.flags)


def _take_filters(told: list[tuple[Any, ...]]) -> None:
    if told == _filters():
        return
    warnings.resetwarnings()  # so that modules forget which warnings they have shown
    warnings.filters[:] = [  # type: ignore[index]
        (action, _pattern(message), _category(*kind), _pattern(module), line)
        for action, message, kind, module, line in told
    ]


def _pattern(plain: Any) -> Any:
    return _Pattern(*plain) if isinstance(plain, tuple) else plain


def _category(module: str, qualname: str) -> type:
    found = getattr(sys.modules.get(module), qualname, None)
    if module == "builtins" and isinstance(found, type):
        return found
    return _ByName(qualname, (Warning,), {"__module__": module, "__qualname__": qualname})


# -- the rest ------------------------------------------------------------------------------------


def _umask() -> int | None:
    """Return the umask from /proc, since `os.umask` would change it for a moment; else None."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    return None


def _limits() -> list[tuple[int, tuple[int, int]]]:
    numbers = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
    return [(number, resource.getrlimit(number)) for number in numbers]


def _take_limits(told: list[tuple[int, tuple[int, int]]]) -> None:
    for number, limits in told:
        if resource.getrlimit(number) != limits:
            try:
                resource.setrlimit(number, limits)
            except (OSError, ValueError):
                pass  # only a privileged process may raise a limit


def _take_niceness(told: int) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0) != told:
        os.setpriority(os.PRIO_PROCESS, 0, told)


def _take_processors(told: set[int]) -> None:
    if os.sched_getaffinity(0) != told:
        os.sched_setaffinity(0, told)


def _take_signals(told: list[int]) -> None:
    for number in _IGNORABLE:
        is_ignored = signal.getsignal(number) is signal.SIG_IGN
        if is_ignored != (number in told):
            signal.signal(number, _default_of(number) if is_ignored else signal.SIG_IGN)


def _default_of(number: int) -> Any:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _locale() -> str:
    import locale

    return locale.setlocale(locale.LC_ALL)


def _take_locale(told: str) -> None:
    if _locale() != told:
        import locale

        try:
            locale.setlocale(locale.LC_ALL, told)
        except locale.Error as error:
            raise ValueError from error


def _take_bytecode(told: tuple[bool, str | None]) -> None:
    sys.dont_write_bytecode, sys.pycache_prefix = told


def _has_fault_handler() -> bool | None:
    module = sys.modules.get("faulthandler")
    return None if module is None else module.is_enabled()


def _take_fault_handler(told: bool) -> None:
    import faulthandler

    if told != faulthandler.is_enabled():
        if told:
            faulthandler.enable(sys.__stderr__ or 2)
        else:
            faulthandler.disable()


_TAKES: dict[str, Any] = {
    "warning filters": _take_filters,
    "recursion limit": sys.setrecursionlimit,
    "switch interval": sys.setswitchinterval,
    "digits": sys.set_int_max_str_digits,
    "bytecode": _take_bytecode,
    "umask": os.umask,
    "niceness": _take_niceness,
    "processors": _take_processors,
    "ignored signals": _take_signals,
    "resource limits": _take_limits,
    "locale": _take_locale,
    "fault handler": _take_fault_handler,
}
