"""A shell command with places for an input, where the input is data and never code.

The shell gets the input as its first positional parameter. Each place becomes an expansion of that,
and what a shell has expanded it does not read as code again:

    plain {}    "$1"        'single {}'    'single '"$1"''        "double {}"    "double ${1}"
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import NamedTuple

SHELL = "/bin/sh"

_GATE = "read -r _ && exec </dev/null || exit; "
"""What the engine's programs do first: see `ProgramEngine`."""

MAX_INPUT_BYTES = 32 * os.sysconf("SC_PAGE_SIZE") - 1
"""The longest argument that Linux hands to a program (MAX_ARG_STRLEN, less its final zero)."""

PLAIN, SINGLE, DOUBLE, BACK, PAREN, ARITHMETIC, COMMENT = range(7)
"""What may surround a place; all but the quotes and comments are read as code."""

_EXPANSIONS = {SINGLE: "'\"$1\"'", DOUBLE: "${1}"}
_OPENED_BY_ANOTHER = {"$((": ARITHMETIC, "$(": PAREN, "`": BACK}
_OPENED = {**_OPENED_BY_ANOTHER, "(": PAREN, "'": SINGLE, '"': DOUBLE}
_CLOSED_BY = {SINGLE: "'", DOUBLE: '"', BACK: "`", PAREN: ")", ARITHMETIC: "))", COMMENT: "\n"}
_TAKES_A_COMMAND = (";", "&", "|", "(", "\n", "!")


class Place(NamedTuple):
    """Where an input stands in a command.

    Attributes:
        context: What surrounds it.
        num_back: In how many backquotes it stands.
    """

    context: int
    num_back: int


class BadTemplate(Exception):
    """A command that cannot be run for inputs; its text says why."""


class BadInput(Exception):
    """An input that no program can be given; its text says why."""


class Template:
    """A command line for a shell.

    Args:
        text: The command; without a place in it, the input is appended.
        mark: What stands for the input.

    Raises:
        BadTemplate: An input cannot stand there, or a shell finds a mistake in it.
    """

    def __init__(self, text: str, mark: str = "{}") -> None:
        self.__name__ = text  # what records call the function of a job
        self._literals, self._places, end = split(text, mark)
        if not self._places:
            if not text.strip() or text.rstrip(" \t").endswith(_TAKES_A_COMMAND):
                raise BadTemplate(
                    f"the input would be run as a program: say with {mark} where it goes in "
                    f"{text!r}"
                )
            if end == COMMENT:
                raise BadTemplate(f"the input would be part of the comment in {text!r}")
            self._literals, self._places = [f"{text} ", ""], [Place(PLAIN, 0)]
        if any(place.context == ARITHMETIC for place in self._places):
            raise BadTemplate(
                f"{mark} stands in $(( )), where some shells run parts of the input as code; "
                f"compute with expr, or with $( ( where that is meant"
            )
        self.script = self._join([_EXPANSIONS.get(place.context, '"$1"') for place in self._places])
        if "\0" in self.script:
            raise BadTemplate("a command cannot contain a NUL byte")

    def check(self) -> None:
        """Have a shell read the command without running it.

        Raises:
            BadTemplate: It is no command.
        """
        try:
            read = subprocess.run(
                [SHELL, "-n", "-c", self.script, "sh"], capture_output=True, check=False
            )
        except OSError as error:
            raise BadTemplate(f"cannot start {SHELL}: {error.strerror}") from None
        if read.returncode:
            why = read.stderr.decode(errors="replace").strip().removeprefix("sh: ")
            raise BadTemplate(f"the shell cannot read the command {self.__name__!r}: {why}")

    def __call__(self, given: str) -> list[str]:
        """Return the program and the arguments for an input.

        Raises:
            BadInput: It cannot be an argument.
        """
        if "\0" in given:
            raise BadInput("the input has a NUL byte, which no argument can have")
        if (size := len(os.fsencode(given))) > MAX_INPUT_BYTES:
            raise BadInput(
                f"the input has {size:,} bytes, and an argument at most {MAX_INPUT_BYTES:,}: "
                "put it in a file, and give the file's name"
            )
        return [SHELL, "-c", _GATE + self.script, "sh", given]

    def shown(self, given: str) -> str:
        """Return a command that does the same without parameters, for a person to read."""
        return self._join([_written(given, place) for place in self._places])

    def _join(self, between: list[str]) -> str:
        first, *rest = self._literals
        return first + "".join(a + b for a, b in zip(between, rest, strict=True))


def _written(given: str, place: Place) -> str:
    if place.context == SINGLE:
        text = f"'{shlex.quote(given)}'"
    elif place.context == DOUBLE:
        text = re.sub(r'([\\"$`])', r"\\\1", given)
    else:
        text = shlex.quote(given)
    for _ in range(place.num_back):
        text = re.sub(r"([\\$`])", r"\\\1", text)
    return text


def split(text: str, mark: str) -> tuple[list[str], list[Place], int]:
    """Find the places in a command.

    Returns:
        What stands before, between and after them; the places; what surrounds the end.
    """
    literals, places = [""], []
    open_ones = [PLAIN]
    at = 0
    while at < len(text):
        context = open_ones[-1]
        if context != COMMENT and text.startswith(mark, at):
            places.append(Place(context, open_ones.count(BACK)))
            literals.append("")
            at += len(mark)
            continue
        size = _step(text, at, open_ones)
        literals[-1] += text[at : at + size]
        at += size
    return literals, places, open_ones[-1]


def _step(text: str, at: int, open_ones: list[int]) -> int:
    """Go over the next token, and note what it opens or closes; returns its length."""
    context = open_ones[-1]
    if context not in (SINGLE, COMMENT) and text[at] == "\\":
        return 2
    closing = _CLOSED_BY.get(context)
    if closing is not None and text.startswith(closing, at):
        open_ones.pop()
        return len(closing)
    if context in (SINGLE, COMMENT):
        return 1
    opening = _OPENED_BY_ANOTHER if context == DOUBLE else _OPENED
    for token, inside in opening.items():
        if text.startswith(token, at):
            open_ones.append(inside)
            return len(token)
    if text[at] == "#" and context != DOUBLE and (at == 0 or text[at - 1] in " \t\n;&|()"):
        open_ones.append(COMMENT)
    return 1
