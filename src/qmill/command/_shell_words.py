"""Parses a shell command into simple commands and words, in as much detail as `_evaluated` needs.

A word has its text without quotes, in which NUL stands for an input and SOH for any other
expansion, and the variables that are expanded in it, also inside `$( )`. Arithmetic (`$(( ))`, an
index, an offset) is kept as text, apart from the commands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

INPUT, EXPANDED = "\0", "\1"

_OPERATORS = ";&|\n()<>"
_RESERVED = {"if", "then", "elif", "else", "fi", "while", "until", "do", "done", "!", "{", "}"}
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_OF_INPUT = re.compile(r"\$\{?[!#]?[1-9@*]")
"""The input as a parameter; `set` may make it `$2` and so on."""


@dataclass
class Word:
    """A word of a command.

    Attributes:
        text: Its text, without quotes.
        names: The variables that are expanded in it.
        has_input: Whether the input is expanded in it.
    """

    text: str = ""
    names: set[str] = field(default_factory=set)
    has_input: bool = False

    def take(self, other: Word) -> None:
        """Add the variables and the input of another word."""
        self.names |= other.names
        self.has_input |= other.has_input


@dataclass
class Command:
    """A simple command: its words without redirections, and the text of its here-documents."""

    words: list[Word] = field(default_factory=list)
    document: Word = field(default_factory=Word)


@dataclass
class Computed:
    """An arithmetic expression of some shells: its form, and its text."""

    form: str
    inside: Word


class Words:
    """Reads a command.

    Args:
        text: The command.
        mark: The text that stands for the input.

    Attributes:
        commands: All simple commands, including those in substitutions.
        computed: All texts that some shells evaluate as arithmetic.
    """

    def __init__(self, text: str, mark: str) -> None:
        self.commands: list[Command] = []
        self.computed: list[Computed] = []
        self._text, self._mark = text, mark
        self._code(0, "")

    # -- commands ----------------------------------------------------------------------------------

    def _code(self, at: int, closing: str) -> int:
        """Read commands up to the closing character; return the position after it."""
        text = self._text
        command, documents = self._begin(), list[tuple[str, bool, Command]]()
        num_cases, is_target = 0, False
        while at < len(text):
            c = text[at]
            if c == closing and not (c == ")" and num_cases):
                return at + 1
            if c in " \t":
                at += 1
            elif text.startswith("\\\n", at):
                at += 2
            elif c == "#":
                at = self._line_end(at)
            elif text.startswith("<<<", at):
                word, at = self._word(self._after_blanks(at + 3))
                command.document.take(word)
            elif text.startswith("<<", at):
                start = self._after_blanks(at + 2 + text.startswith("<<-", at))
                word, at = self._word(start)
                is_quoted = any(quote in text[start:at] for quote in "'\"\\")
                documents.append((word.text, is_quoted, command))
            elif c in "<>" and text[at + 1 : at + 2] != "(":
                if command.words and command.words[-1].text.isdigit() and text[at - 1].isdigit():
                    command.words.pop()
                at, is_target = at + 1, True
                while text[at : at + 1] in ("&", "|", ">") and text[at : at + 1]:
                    at += 1
            elif c in _OPERATORS:
                if c == "(":
                    at = self._parenthesis(at)
                else:
                    at += 1
                if c in "\n" and documents:
                    at = self._documents(at, documents)
                if c not in "<>":
                    command = self._begin()
                is_target = False
            else:
                word, at = self._word(at, closing)
                if is_target:
                    is_target = False
                elif command.words or word.text not in _RESERVED:
                    num_cases += (word.text == "case" and not command.words) - (word.text == "esac")
                    command.words.append(word)
        return at

    def _begin(self) -> Command:
        self.commands.append(Command())
        return self.commands[-1]

    def _parenthesis(self, at: int) -> int:
        if self._text.startswith("((", at):
            end = self._balanced(at + 1, "(", ")")
            if self._text.startswith(")", end):
                self._compute("((...))", self._text[at + 2 : end - 1])
        return self._code(at + 1, ")")

    def _line_end(self, at: int) -> int:
        end = self._text.find("\n", at)
        return len(self._text) if end < 0 else end

    def _after_blanks(self, at: int) -> int:
        while self._text[at : at + 1] in (" ", "\t"):
            at += 1
        return at

    def _documents(self, at: int, documents: list[tuple[str, bool, Command]]) -> int:
        """Read the here-documents that begin after this line; return the position after them."""
        for ending, is_quoted, command in documents:
            while at < len(self._text):
                end = self._line_end(at)
                line = self._text[at:end]
                if line.lstrip("\t") == ending:
                    at = end + 1
                    break
                if not is_quoted:
                    self._expand(line, command.document)
                at = end + 1
        documents.clear()
        return at

    def _expand(self, text: str, into: Word) -> None:
        """Read a text with the expansions of double quotes, and add them to a word."""
        inner = object.__new__(Words)
        inner.commands, inner.computed = self.commands, self.computed
        inner._text, inner._mark = text, self._mark
        at = 0
        while at < len(text):
            at = inner._piece(at, into, is_quoted=True)

    # -- words -------------------------------------------------------------------------------------

    def _word(self, at: int, closing: str = "") -> tuple[Word, int]:
        """Read a word; return it and the position after it."""
        word, text = Word(), self._text
        while at < len(text) and text[at] not in " \t" + _OPERATORS and text[at] != closing:
            at = self._piece(at, word)
        return word, at

    def _piece(self, at: int, word: Word, is_quoted: bool = False) -> int:
        """Read the next piece of a word; return the position after it."""
        text = self._text
        if text.startswith(self._mark, at):
            word.text += INPUT
            word.has_input = True
            return at + len(self._mark)
        c = text[at]
        if c == "\\":
            word.text += text[at + 1 : at + 2].replace("\n", "")
            return at + 2
        if c == "'" and not is_quoted:
            return self._single(at + 1, word)
        if c == '"' and not is_quoted:
            at += 1
            while at < len(text) and text[at] != '"':
                at = self._piece(at, word, is_quoted=True)
            return at + 1
        if c == "`":
            return self._substitution(at + 1, "`", word)
        if c == "$":
            return self._dollar(at, word)
        word.text += c
        return at + 1

    def _single(self, at: int, word: Word) -> int:
        text = self._text
        while at < len(text) and text[at] != "'":
            if text.startswith(self._mark, at):
                at = self._piece(at, word)
            else:
                word.text += text[at]
                at += 1
        return at + 1

    def _substitution(self, at: int, closing: str, word: Word) -> int:
        first = len(self.commands)
        at = self._code(at, closing)
        for command in self.commands[first:]:
            for each in (*command.words, command.document):
                word.take(each)
        word.text += EXPANDED
        return at

    def _dollar(self, at: int, word: Word) -> int:
        text = self._text
        if text.startswith("$((", at):
            end = self._balanced(at + 1, "(", ")")
            if text[end - 2 : end] == "))":
                word.take(self._compute("$((...))", text[at + 3 : end - 2]))
                word.text += EXPANDED
                self._expand(text[at + 3 : end - 2], Word())
                return end
        if text.startswith("$(", at):
            return self._substitution(at + 2, ")", word)
        if text.startswith("$[", at):
            end = self._balanced(at + 1, "[", "]")
            word.take(self._compute("$[...]", text[at + 2 : end - 1]))
            word.text += EXPANDED
            return end
        if text.startswith("${", at):
            return self._braces(at, word)
        if found := _OF_INPUT.match(text, at):
            word.text += INPUT
            word.has_input = True
            return found.end()
        if found := _IDENTIFIER.match(text, at + 1):
            word.text += EXPANDED
            word.names.add(found[0])
            return found.end()
        word.text += "$"
        return at + 1

    def _braces(self, at: int, word: Word) -> int:
        """Read `${...}`."""
        end = self._balanced(at + 1, "{", "}")
        inside = self._text[at + 2 : end - 1]
        found = re.match(r"(\(\w+\))?([!#]?)(\w+|[@*])(\[[^\]]*\])?", inside)
        if found is None:
            return end
        flags, sign, name, index = found.groups()
        rest = inside[found.end() :]
        own, told = Word(), Word()
        own.names.add(name)
        own.has_input = name in "@*" or (name.isdigit() and name != "0")
        self._expand(rest, told)
        if sign == "!" or flags:
            self.computed.append(Computed("${!...}" if sign else "${(...)...}", own))
        if index and index not in ("[@]", "[*]"):
            own.take(self._compute("${...[...]}", index))
        if re.match(r":(?![-=?+])", rest):
            own.take(self._compute("${...:...}", rest))
        if rest.startswith("@"):
            self.computed.append(Computed("${...@...}", own))
        if re.match(r":?=", rest):
            self.commands.append(Command([Word(f"{name}=", told.names, told.has_input)]))
        own.take(told)
        word.take(own)
        word.text += INPUT if own.has_input else EXPANDED
        return end

    def _compute(self, form: str, text: str) -> Word:
        """Keep a text that some shells evaluate, in which a bare name is a variable."""
        has_input = self._mark in text or _OF_INPUT.search(text) is not None
        inside = Word(text, set(_IDENTIFIER.findall(text)), has_input)
        self.computed.append(Computed(form, inside))
        return inside

    def _balanced(self, at: int, opening: str, closing: str) -> int:
        """Return the position after the bracket that closes the one at `at`."""
        depth = 0
        for index in range(at, len(self._text)):
            if index > at and self._text[index - 1] == "\\":
                continue
            depth += (self._text[index] == opening) - (self._text[index] == closing)
            if not depth:
                return index + 1
        return len(self._text)
