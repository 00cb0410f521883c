"""The command `qmill`: parallel work for shell scripts, and reports on it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute a command line, and return the exit status.

    Args:
        arguments: The words after the program's name; None for `sys.argv`.
    """
    _fill_standard_streams()
    try:
        from ._parser import parse

        options = parse(arguments)
        status: int = options.call(options)
        return status
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:  # --help, or a usage error that was printed
        return int(end.code or 0)


def _fill_standard_streams() -> None:
    """Open the null device for closed standard streams, so that no later file takes their numbers.

    It is opened so that reading or writing fails, as it would for the closed stream.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)


def console() -> None:
    """Run the command as a program: write errors to the standard error, and exit."""
    try:
        status = main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        status = 141
        _forget_stdout()
    except OSError as error:
        _forget_stdout()
        os.write(2, f"qmill: {error.strerror or error}\n".encode(errors="backslashreplace"))
        status = 255
    sys.exit(status)


def _forget_stdout() -> None:
    """Send the rest of the standard output to the null device, as it cannot be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
