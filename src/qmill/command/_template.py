"""A shell command with places for an input, where the input is data and never code.

The shell gets the input as its first positional parameter. Each place becomes an expansion of this
parameter. A shell does not run the result of an expansion as code, unless a command tells it to
(`_evaluated`):

    plain {}    "$1"        'single {}'    'single '"$1"''        "double {}"    "double ${1}"
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from functools import cached_property
from typing import NamedTuple

from . import _evaluated
from ._evaluated import why_code

_SHELLS = ("/bin/dash", "/usr/bin/dash")
"""The shell that runs commands where it is installed: quick, and never runs text as code."""

_GATE = "read -r _ && exec </dev/null || exit; "
"""The first words of the engine's programs: see `ProgramEngine`."""

MAX_INPUT_BYTES = 32 * os.sysconf("SC_PAGE_SIZE") - 1
"""The longest argument that Linux passes to a program (MAX_ARG_STRLEN, less its final zero)."""

PLAIN, SINGLE, DOUBLE, BACK, PAREN, ARITHMETIC, COMMENT, DOCUMENT = range(8)
"""Contexts of a place. DOCUMENT is a here-document, and everything after its beginning."""

_CODE = (PLAIN, BACK, PAREN)
_EXPANSIONS = {SINGLE: "'\"$1\"'", DOUBLE: "${1}"}
_OPENED_BY_ANOTHER = {"$((": ARITHMETIC, "$(": PAREN, "`": BACK}
_OPENED = {**_OPENED_BY_ANOTHER, "(": PAREN, "'": SINGLE, '"': DOUBLE}
_CLOSED_BY = {SINGLE: "'", DOUBLE: '"', BACK: "`", PAREN: ")", ARITHMETIC: "))"}
_TAKES_A_COMMAND = (";", "&", "|", "(", "\n", "!")

_PARAMETER = re.compile(r"\$(?:[1@*]|\{#?(?:1(?!\d)|[@*]))")
"""The input, or a part of it, as a shell's parameter."""

_FUNCTION = re.compile(r"\w\s*\(\s*\)")
"""The head of a function; inside it, `$1` is an argument of that function."""

_OF_BASH = re.compile(r"[<>]\(|<<<|&>")
"""Syntax of bash that a POSIX shell does not have."""

_COMMANDS_OF_BASH = re.compile(
    r"(?:\[\[|source|function|shopt|declare|typeset|mapfile|readarray|let|compgen)(?=\s)"
)
"""Commands of bash that a POSIX shell does not have."""

_BEFORE_A_COMMAND = re.compile(r"(?:^|[;&|(!{`\n]|\b(?:if|then|elif|else|while|until|do))[ \t]*\Z")

FOREIGN = re.compile(r"(?<!\$)\{(?:-?\d*(?:/?\.{1,3}|//?)|[#%]|=.+?=)\}|(?<!\S)\{-?\d+\}")
"""Marks that GNU parallel replaces; a number only outside quotes, since patterns have `{2}`."""

_INSTEAD = {
    "{.}": 'for the input without its extension write "${1%.*}"',
    "{/}": 'for the input without its folder write "${1##*/}"',
    "{//}": 'for the input\'s folder write "$(dirname {})"',
    "{/.}": 'for the name without folder and extension write name="${1##*/}"; ... "${name%.*}"',
    "{#}": "jobs have no number here; give numbers as inputs, or name by the input",
    "{%}": "slots have no number here; name by the input",
}


class Place(NamedTuple):
    """The place of an input in a command.

    Attributes:
        context: The quotes or brackets around it.
        num_back: The number of backquotes around it.
    """

    context: int
    num_back: int


class BadTemplate(Exception):
    """A command cannot be run for inputs; the text says why."""


class BadInput(Exception):
    """An input cannot be an argument of a program; the text says why."""


class Template:
    """A command line for a shell.

    Args:
        text: The command; the input is appended if it has no place for it.
        mark: The text that stands for the input.
        shell: The shell, a path or a name; None for dash, or /bin/sh if dash is not installed.

    Raises:
        BadTemplate: An input cannot stand in this place, or there is no such shell.
    """

    def __init__(self, text: str, mark: str = "{}", shell: str | None = None) -> None:
        self.__name__ = text  # the function's name in records
        self._mark = mark
        self.shell = find_shell(shell)
        reader = _Reader(text, mark)
        self._literals, self._places = reader.literals, reader.places
        self._takes_parameter = bool(reader.parameters)
        if mark == "{}" and reader.foreign is not None:
            raise BadTemplate(foreign(reader.foreign))
        if not self._places:
            self._complete(text, mark, reader)
        contexts = {place.context for place in self._places}
        if ARITHMETIC in contexts | reader.parameters:
            raise BadTemplate(
                f"{mark} or $1 stands in $(( )), where some shells run parts of the input as code: "
                f"use expr for arithmetic; write $( ( for a subshell in a substitution"
            )
        if DOCUMENT in contexts:
            raise BadTemplate(
                f"{mark} stands in a here-document (<<), or after one, where quotes are text: "
                "write $1 for the input there; the shell expands it unless the word after << is "
                "quoted"
            )
        self._of_bash = reader.of_bash
        self.script = self._join([_EXPANSIONS.get(place.context, '"$1"') for place in self._places])
        if "\0" in self.script:
            raise BadTemplate("a command cannot contain a NUL byte")

    def _complete(self, text: str, mark: str, reader: _Reader) -> None:
        """Append the input to a command without a place, unless the command uses it as `$1`.

        Raises:
            BadTemplate: It cannot be appended, or it is not clear whether it should be.
        """
        if self._takes_parameter:
            if _FUNCTION.search(text):
                raise BadTemplate(
                    f"$1 may be a parameter of a function in {text!r}: say with {mark} where the "
                    "input goes"
                )
            return
        if not text.strip() or text.rstrip(" \t").endswith(_TAKES_A_COMMAND):
            raise BadTemplate(
                f"the input would be run as a program: say with {mark} where it goes in {text!r}"
            )
        if reader.end in (COMMENT, DOCUMENT):
            what = "comment" if reader.end == COMMENT else "here-document"
            raise BadTemplate(f"the input would be part of the {what} in {text!r}")
        self._literals, self._places = [f"{text} ", ""], [Place(PLAIN, 0)]

    def check(self) -> None:
        """Check that inputs stay data, and have the shell parse the command without running it.

        Raises:
            BadTemplate: The shell would run an input as code, or cannot parse the command.
        """
        if why_code(self.__name__, self._mark, _evaluated.OTHER) and (why := self._why_code()):
            raise BadTemplate(f"an input could be code in {self.__name__!r}: {why}")
        if self._of_bash and self._kind == _evaluated.PLAIN and not self._is_busybox:
            raise BadTemplate(
                f"{self.shell} runs the command, and {self._of_bash} is syntax of bash: choose it "
                """with --shell bash, or write bash -c '... "$1" ...' bash {}"""
            )
        try:
            read = subprocess.run(
                [self.shell, "-n", "-c", self.script, "sh"], capture_output=True, check=False
            )
        except OSError as error:
            raise BadTemplate(f"cannot start {self.shell}: {error.strerror}") from None
        if read.returncode:
            why = read.stderr.decode(errors="replace").strip().removeprefix("sh: ")
            told = "; ".join([why, *self.hints()])
            raise BadTemplate(f"the shell cannot read the command {self.__name__!r}: {told}")

    @cached_property
    def _kind(self) -> int:
        try:
            return _evaluated.ask_kind(self.shell)
        except OSError as error:
            raise BadTemplate(f"cannot start {self.shell}: {error.strerror}") from None

    @property
    def _is_busybox(self) -> bool:
        return "busybox" in os.path.realpath(self.shell)

    def _why_code(self) -> str:
        why = why_code(self.__name__, self._mark, self._kind)
        is_safe_elsewhere = not why_code(self.__name__, self._mark, _evaluated.PLAIN)
        other = "" if not is_safe_elsewhere else "; --shell dash does not evaluate text"
        return why and f"{why} ({self.shell}){other}"

    def hints(self) -> list[str]:
        """Return hints about functions of bash in the command that the shell may not have."""
        hints: list[str] = []
        names = _exported_functions()
        if not names or self._kind == _evaluated.BASH:
            return hints
        for name in names:
            word = rf"(?<![\w/.-]){re.escape(name)}"
            is_defined = re.search(rf"{word}\s*\(\)", self.__name__)
            if not is_defined and re.search(rf"{word}(?![\w/.-])", self.__name__):
                hints.append(
                    f"{name} is a function of bash, which {self.shell} does not have: choose "
                    f'--shell bash, or put it before the command: "$(declare -f {name}); ..."'
                )
        return hints

    def __call__(self, given: str) -> list[str]:
        """Return the program and the arguments for an input.

        Raises:
            BadInput: The input cannot be an argument.
        """
        if "\0" in given:
            raise BadInput("the input has a NUL byte, which no argument can have")
        if (size := len(os.fsencode(given))) > MAX_INPUT_BYTES:
            raise BadInput(
                f"the input has {size:,} bytes; an argument may have {MAX_INPUT_BYTES:,} at most: "
                "put it in a file, and give the file's name"
            )
        return [self.shell, "-c", _GATE + self.script, "sh", given]

    def shown(self, given: str) -> str:
        """Return a command that does the same by itself, for people to read."""
        text = self._join([_written(given, place) for place in self._places])
        return f"set -- {shlex.quote(given)}; {text}" if self._takes_parameter else text

    def _join(self, between: list[str]) -> str:
        first, *rest = self._literals
        return first + "".join(a + b for a, b in zip(between, rest, strict=True))


def find_shell(shell: str | None) -> str:
    """Return the path of a shell.

    Raises:
        BadTemplate: There is no such shell.
    """
    if shell is None:
        return next((path for path in _SHELLS if os.access(path, os.X_OK)), "/bin/sh")
    found = shutil.which(shell)
    if found is None:
        raise BadTemplate(f"--shell: there is no program {shell!r}; name one, such as bash")
    return found


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


def foreign(found: str) -> str:
    """Return a message about a mark of GNU parallel, and the way to write it here."""
    kind = re.sub(r"-?\d+", "", found)
    instead = _INSTEAD.get(kind, "each job gets one input, and {} stands for it")
    return (
        f"{found} belongs to GNU parallel: {instead}. To keep {found} as it is, choose another "
        "mark than {} with -I"
    )


def _exported_functions() -> list[str]:
    """Return the names of the functions that `export -f` has put into the environment."""
    wrapped = (re.fullmatch(r"BASH_FUNC_(.+)%%", name) for name in os.environ)
    return [found[1] for found in wrapped if found]


class _Reader:
    """Parses a command as a shell does, in as much detail as the places of inputs need.

    Args:
        text: The command.
        mark: The text that stands for the input.

    Attributes:
        literals: The texts before, between and after the places.
        places: The places of the input.
        parameters: The contexts in which `$1` and its like are expanded.
        end: The context at the end.
        foreign: The first mark that only GNU parallel replaces, or None.
        of_bash: The first syntax that only bash and shells like it have, or None.
    """

    def __init__(self, text: str, mark: str) -> None:
        self.literals, self.places = [""], list[Place]()
        self.parameters: set[int] = set()
        self.foreign: str | None = None
        self.of_bash: str | None = None
        self._text = text
        self._open = [PLAIN]
        self._has_document = False  # whether a here-document begins with the next line
        at = 0
        while at < len(text):
            if self._open[-1] != COMMENT and text.startswith(mark, at):
                self.places.append(Place(self._open[-1], self._open.count(BACK)))
                self.literals.append("")
                at += len(mark)
                continue
            self._look(at)
            size = self._step(at)
            self.literals[-1] += text[at : at + size]
            at += size
        self.end = self._open[-1]

    def _look(self, at: int) -> None:
        """Note the parameter, mark or syntax at a position."""
        context = self._open[-1]
        if context == COMMENT:
            return
        if context != SINGLE and _PARAMETER.match(self._text, at):
            self.parameters.add(context)
        if self.foreign is None and (found := FOREIGN.match(self._text, at)):
            is_pattern = context not in _CODE and found[0].strip("{-}").isdigit()
            self.foreign = None if is_pattern else found[0]
        if self.of_bash is None and context in _CODE:
            self.of_bash = self._of_bash(at)

    def _of_bash(self, at: int) -> str | None:
        found = _OF_BASH.match(self._text, at)
        if found is None and (found := _COMMANDS_OF_BASH.match(self._text, at)):
            found = found if _BEFORE_A_COMMAND.search(self._text, 0, at) else None
        return None if found is None else found[0]

    def _step(self, at: int) -> int:
        """Read the next token, and note the context that it opens or closes; return its length."""
        text, context = self._text, self._open[-1]
        if context not in (SINGLE, COMMENT) and text[at] == "\\":
            return 2
        if context == COMMENT:
            if text[at] == "\n":
                self._open.pop()
                return 0  # the end of the line is code
            return 1
        closing = _CLOSED_BY.get(context)
        if closing is not None and text.startswith(closing, at):
            self._open.pop()
            return len(closing)
        if context in (SINGLE, DOCUMENT):
            return 1
        if context in _CODE and (size := self._step_in_code(at)):
            return size
        for token, inside in (_OPENED_BY_ANOTHER if context == DOUBLE else _OPENED).items():
            if text.startswith(token, at):
                self._open.append(inside)
                return len(token)
        return 1

    def _step_in_code(self, at: int) -> int:
        """Read a token that exists only outside quotes; return its length, 0 if there is none."""
        text = self._text
        if text[at] == "#" and (at == 0 or text[at - 1] in " \t\n;&|()"):
            self._open.append(COMMENT)
            return 1
        if text.startswith("<<<", at):
            return 3
        if text.startswith("<<", at):
            self._has_document = True
            return 2
        if text[at] == "\n" and self._has_document:
            self._open.append(DOCUMENT)
            return 1
        return 0
