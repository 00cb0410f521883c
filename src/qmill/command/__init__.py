"""The command `qmill`: parallel work for shell scripts, and a look at what it did."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line says, and return the exit status.

    Args:
        arguments: What stands behind the program's name; None for `sys.argv`.
    """
    _fill_standard_streams()
    try:
        from ._parser import parse

        options = parse(arguments)
        status: int = options.call(options)
        return status
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:  # --help, or a mistake that has been told
        return int(end.code or 0)


def _fill_standard_streams() -> None:
    """Let no file that is opened later take the place of a standard stream that is closed.

    What is put there refuses reading, or writing, as the closed one would.
    """
    for descriptor, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)


def console() -> None:
    """Run as a program."""
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
    """Have the interpreter write nothing more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
