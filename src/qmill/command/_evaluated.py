"""Finds commands in which a shell would run an input as code, though it is in quotes.

Quotes keep an input one word. But some commands run their words as code (`eval`, `trap`, `sh -c`),
in all shells. bash and its like also do so wherever they evaluate arithmetic, as in `$((x))`,
`[[ x -eq 1 ]]` or `${y:x}`, for a value such as `a[$(reboot)]`. An input gets there directly, as
`$1`, or through a variable. So this module follows the variables to which a command assigns it.
"""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

from ._shell_words import EXPANDED, INPUT, Command, Word, Words

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN, BASH, OTHER = range(3)
"""Kinds of arithmetic: numbers only (dash, busybox); bash's; ksh's, assumed for all others."""

_ASK = """
echo "${BASH_VERSION:+bash}${KSH_VERSION:+other}${ZSH_VERSION:+other}${YASH_VERSION:+other}"
q='a[$(echo code$((6*7)) >&2)0]'
: $((q))
"""


def ask_kind(shell: str) -> int:
    """Return the kind of a shell, from its behaviour and not from its name.

    Raises:
        OSError: The shell cannot be started.
    """
    asked = subprocess.run([shell, "-c", _ASK, "sh"], capture_output=True, check=False)
    name = asked.stdout.split(b"\n")[0]
    if name == b"bash":
        return BASH
    return PLAIN if name == b"" and b"code42" not in asked.stderr.split() else OTHER


_SHELLS = r"(?:ba|da|a|k|mk|z|ya|rba|)sh(?:93)?"
_TAKES_CODE = {
    re.compile(_SHELLS): "c",
    re.compile(r"su|runuser|flock|script"): "c",
    re.compile(r"python[\d.]*|pypy[\d.]*"): "c",
    re.compile(r"perl|ruby|node|lua[\d.]*"): "eE",
    re.compile(r"php"): "r",
}
"""Programs that take code in an option, and the letters of that option."""

_SHELL_NAME = re.compile(_SHELLS)
_RUN_ANOTHER = {"command", "builtin", "exec", "nohup", "time"}
_DECLARE = {"export", "readonly", "local", "declare", "typeset", "integer", "float", "nameref"}
_NAMES_VARIABLES = {"read", "unset", "mapfile", "readarray", "vared"}
_ALWAYS_CODE = {"eval", "trap", "alias"}
_CODE_OF_BASH = {"let", "compgen", "complete", "bind"}
_COMPUTES_IN_KSH = {"exit", "return", "shift", "break", "continue", "ulimit", "print"}
_SETTINGS = {"PS0", "PS1", "PS2", "PS3", "PS4", "PROMPT_COMMAND", "ENV", "BASH_ENV"}
_SET_BY_SHELL = {"_", "REPLY", "OPTARG", "BASH_ARGV", "BASH_COMMAND", "BASH_REMATCH"}
"""Variables that a shell sets to words that it has read or run, so perhaps to the input."""

_NUMBERS = {"RANDOM", "SRANDOM", "SECONDS", "OPTIND", "HISTCMD", "LINENO", "BASH_ARGV0"}
_COMPARE = {"-eq", "-ne", "-lt", "-le", "-gt", "-ge"}
_LOOKS_UP = {"-v", "-R"}
_SSH_TAKES_VALUE = set("BbcDEeFIiJLlmOopQRSWw")

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[.*?\])?\+?=", re.ASCII | re.DOTALL)
_IDENTIFIERS = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def why_code(text: str, mark: str, kind: int) -> str:
    """Return the reason why a shell would run the input as code; "" if it would not.

    Args:
        text: The command.
        mark: The text that stands for the input in it.
        kind: The kind of the shell.
    """
    return next(_Flow(Words(text, mark), kind).reasons(), "")


class _Flow:
    """Follows an input through a command.

    Args:
        words: The command, parsed.
        kind: The kind of the shell.
    """

    def __init__(self, words: Words, kind: int) -> None:
        self._words, self._kind = words, kind
        self._tainted = {*_SET_BY_SHELL}
        self._numbers = _NUMBERS | {
            assigned[1] if (assigned := _ASSIGNMENT.match(word.text)) else word.text
            for command in words.commands
            for name, args in [_called(command)]
            if name in _DECLARE and (name != "export" and _has_option(args, "in"))
            for word in args
        }
        while self._spread():
            pass

    def _spread(self) -> bool:
        """Follow the input one assignment further; return whether a variable was added."""
        before = len(self._tainted)
        for command in self._words.commands:
            self._tainted |= self._given(command)
        return len(self._tainted) > before

    def _given(self, command: Command) -> set[str]:
        """Return the variables to which a command assigns the input, or may assign it."""
        found = {
            assigned[1]
            for word in command.words
            if (assigned := _ASSIGNMENT.match(word.text)) and self._has(word)
        }
        name, args = _called(command)
        texts = [word.text for word in args]
        if name in ("for", "select") and texts and (self._any(args[1:]) or "in" not in texts[1:2]):
            found.add(texts[0])
        if name in _NAMES_VARIABLES - {"unset"}:  # the text that they read may be the input
            found |= {"MAPFILE", *texts}
        if name == "getopts":
            found |= set(texts[1:2])
        if name == "printf" and "-v" in texts[:1] and self._any(args):
            found |= set(texts[1:2])
        return found

    def _has(self, word: Word) -> bool:
        return word.has_input or not self._tainted.isdisjoint(word.names)

    def _any(self, words: list[Word]) -> bool:
        return any(map(self._has, words))

    def _computes(self, word: Word) -> bool:
        """Return whether the input is in a word in which a bare name is a variable."""
        names = set(_IDENTIFIERS.findall(word.text))
        return self._has(word) or not self._tainted.isdisjoint(names)

    def reasons(self) -> Iterator[str]:
        """Yield the reasons: one for each place in which an input would be run as code."""
        for command in self._words.commands:
            name, args = _called(command)
            yield from self._of_assignments(command)
            yield from self._of_any_shell(command, name, args)
            if self._kind >= BASH:
                yield from self._of_bash(name, args)
            if self._kind >= OTHER:
                yield from self._of_ksh(name, args)
        if self._kind >= BASH:
            for each in self._words.computed:
                if self._has(each.inside):
                    yield f"this shell evaluates {each.form}, and runs parts of it as code"

    def _of_assignments(self, command: Command) -> Iterator[str]:
        for word in command.words:
            assigned = _ASSIGNMENT.match(word.text)
            if assigned is None:
                continue
            variable, index = assigned[1], assigned[2]
            if variable in _SETTINGS and self._has(word):
                yield f"a shell runs parts of the value of {variable} as code"
            if self._kind >= BASH and variable in self._numbers and self._has(word):
                yield f"this shell evaluates {variable}, a number, and runs parts of it as code"
            inside = Word(index or "", word.names, INPUT in (index or ""))
            if self._kind >= BASH and index and self._computes(inside):
                yield f"this shell evaluates the index of {variable}, and runs parts of it as code"

    def _of_any_shell(self, command: Command, name: str, args: list[Word]) -> Iterator[str]:
        if name in _ALWAYS_CODE and self._any(args):
            yield f"{name} runs its arguments as code"
        if name in _NAMES_VARIABLES and self._any(args):
            yield f"an input would be the name of a variable for {name}"
        if name in _DECLARE and any(self._is_name(word) for word in args):
            yield f"an input would be the name of a variable for {name}"
        if name == "getopts" and self._any(args[1:2]):
            yield "an input would be the name of a variable for getopts"
        if name == "printf" and "-v" in [word.text for word in args[:1]] and self._any(args[1:2]):
            yield "an input would be the name of a variable for printf -v"
        yield from self._of_programs([*command.words])
        base = os.path.basename(name)
        has_operand = any(not word.text.startswith("-") for word in args)
        if _SHELL_NAME.fullmatch(base) and not has_operand and self._has(command.document):
            yield f"{base} runs its here-document as code; write $1 in a quoted one (<<'E')"

    def _is_name(self, word: Word) -> bool:
        before = word.text.partition("=")[0]
        return self._has(word) and (INPUT in before or EXPANDED in before)

    def _of_programs(self, words: list[Word]) -> Iterator[str]:
        for index, word in enumerate(words):
            base = os.path.basename(word.text)
            for program, letters in _TAKES_CODE.items():
                if program.fullmatch(base):
                    code = _behind_option(words[index + 1 :], letters)
                    if code is not None and self._has(code):
                        yield (
                            f"{base} -{letters[0]} takes code: pass the input as an argument "
                            f"after it, as in sh -c 'ls \"$1\"' sh {{}}"
                        )
            if base == "ssh" and self._any(_remote_command(words[index + 1 :])):
                yield (
                    "a shell on the other host runs the command of ssh as code: pass the input as "
                    "standard input, as in printf '%s\\n' {} | ssh HOST COMMAND"
                )

    def _of_bash(self, name: str, args: list[Word]) -> Iterator[str]:
        texts = {word.text for word in args}
        if name in _CODE_OF_BASH and any(map(self._computes, args)):
            yield f"{name} runs parts of its arguments as code"
        if name in _DECLARE and _has_option(args, "in") and any(map(self._computes, args)):
            yield f"{name} -i and -n run parts of a value as code"
        if name == "wait" and self._any(args):
            yield "an input would be the name of a variable for wait -p"
        if name == "[[" and texts & (_COMPARE | _LOOKS_UP) and any(map(self._computes, args)):
            yield "[[ evaluates operands of -eq, -v and the like, and runs parts of them as code"
        if name in ("[", "test") and texts & _LOOKS_UP and self._any(args):
            yield f"{name} -v runs parts of a name as code"

    def _of_ksh(self, name: str, args: list[Word]) -> Iterator[str]:
        texts = {word.text for word in args}
        compares = texts & (_COMPARE | {"-t"})
        if name in ("[", "test", "[[") and compares and any(map(self._computes, args)):
            yield f"{name} evaluates the numbers that it compares, and runs parts of them as code"
        if name in _COMPUTES_IN_KSH and any(map(self._computes, args)):
            yield f"{name} evaluates its argument, and runs parts of it as code"
        has_number = args and (self._has(args[0]) or re.search(r"%[^%a-z]*[^%sbq]", args[0].text))
        if name == "printf" and has_number and self._any(args):
            yield "printf evaluates its numbers, and runs parts of them as code"


def _called(command: Command) -> tuple[str, list[Word]]:
    """Return a command's name, without assignments before it, and its arguments."""
    words = [*command.words]
    while words and (_ASSIGNMENT.match(words[0].text) or words[0].text in _RUN_ANOTHER):
        del words[0]
    return (words[0].text, words[1:]) if words else ("", [])


def _has_option(args: list[Word], letters: str) -> bool:
    return any(
        word.text[:1] in ("-", "+") and any(letter in word.text for letter in letters)
        for word in args
    )


def _behind_option(words: list[Word], letters: str) -> Word | None:
    """Return the argument of the first option that ends with one of the letters."""
    for index, word in enumerate(words):
        found = re.match(rf"-\w*?[{letters}]", word.text)
        if found is not None:
            rest = words[index + 1 : index + 2]
            is_joined = word.text != found[0] and (INPUT in word.text or EXPANDED in word.text)
            return word if is_joined else rest[0] if rest else None
    return None


def _remote_command(words: list[Word]) -> list[Word]:
    """Return the words after the host among the arguments of ssh."""
    index = 0
    while index < len(words) and words[index].text.startswith("-"):
        text = words[index].text
        index += 2 if len(text) == 2 and text[1] in _SSH_TAKES_VALUE else 1
    return words[index + 1 :]
