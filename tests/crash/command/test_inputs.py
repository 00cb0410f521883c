"""Inputs are data, and never code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..programs import LIMIT_S
from .running import COMMAND, EVIL, qmill

PLACES = {
    "appended": "printf '%s\\0'",
    "plain": "printf '%s\\0' {}",
    "in single quotes": "printf '%s\\0' '{}'",
    "in double quotes": "printf '%s\\0' \"{}\"",
    "in a substitution": "printf '%s\\0' \"$(printf '%s.' {})\"",
    "in quotes in a substitution in quotes": "printf '%s\\0' \"$(printf '%s.' \"{}\")\"",
    "in backquotes": "printf '%s\\0' \"`printf '%s.' {}`\"",
    "in a subshell": "(printf '%s\\0' {})",
    "as $1": "printf '%s\\0' \"$1\"",
    "as ${1}": "printf '%s\\0' \"${1}\"",
    "as $@": "printf '%s\\0' \"$@\"",
    "as $1 in a substitution": "printf '%s\\0' \"$(printf '%s.' \"$1\")\"",
    "as $1 in a here-document in a substitution": "printf '%s\\0' \"$(cat <<E\n$1.\nE\n)\"",
    "as $1 in a here-document, don't mind quotes": "cat <<E | tr -d '\\n'\n$1, \"don't\"\nE\n"
    "printf '\\r%s\\0' \"$1\"",
    "before a here-document": "printf '%s\\0' {} <<E\ndon't\nE",
    "$1 in single quotes": 'sh -c \'printf "%s\\0" "$1"\' sh',
    "$1 behind a backslash": 'sh -c "printf \'%s\\0\' \\"\\$1\\"" sh',
    "$1 in a comment": "printf '%s\\0' {} # $1",
    "after a comment": "printf '%s\\0' {} # don't",
}


@pytest.mark.parametrize("place", PLACES)
def test_an_input_is_never_code(place):
    done = qmill("run", "-k", PLACES[place], "--", *EVIL)
    assert (done.returncode, done.stderr) == (0, b"")
    dot = "." if "substitution" in place or "backquotes" in place else ""
    words = [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]
    if "don't mind" in place:
        words = [word.partition("\r")[2] for word in words]
    assert words == [given + dot for given in EVIL]
    assert not Path("hacked").exists()


@pytest.mark.parametrize("place", PLACES)
def test_a_dry_run_writes_a_command_that_does_the_same_and_runs_nothing(place):
    shown = qmill("run", "--dry-run", PLACES[place], "--", *EVIL).stdout
    done = subprocess.run(["/bin/sh"], input=shown, capture_output=True, timeout=LIMIT_S)
    assert done.stdout == qmill("run", "-k", PLACES[place], "--", *EVIL).stdout
    assert not Path("hacked").exists()
    qmill("run", "-n", "touch {}", "hacked")
    assert not Path("hacked").exists()


def test_another_mark_than_braces():
    done = qmill("run", "-I", "%", "echo {} {.} {/} %", "a b")
    assert (done.stdout, done.stderr) == (b"{} {.} {/} a b\n", b"")


@pytest.mark.parametrize(
    "command",
    [
        "echo ${#} '{1}' x{2} {a..b} {1..3} \\{.}",
        'grep -cE "^x{2}$" {} | sed "s/[0-9]{1}/{3}/"',
        "echo {} # {.}",
    ],
)
def test_what_only_looks_like_a_mark_of_gnu_parallel_is_left_alone(command):
    Path("input").write_text("xx\n")
    plain = subprocess.run(
        [
            "/bin/sh",
            "-c",
            command.replace("{}", "input") + (" input" if "{}" not in command else ""),
        ]
        + ["sh", "input"],
        capture_output=True,
    )
    done = qmill("run", command, "input")
    assert (done.stdout, done.stderr) == (plain.stdout, b"")


@pytest.mark.parametrize(
    ("mark", "instead"),
    [
        ("{.}", '"${1%.*}"'),
        ("{/}", '"${1##*/}"'),
        ("{//}", '"$(dirname "$1")"'),
        ("{/.}", '"$(name="${1##*/}"; echo "${name%.*}")"'),
    ],
)
def test_what_is_said_to_stand_for_a_mark_of_gnu_parallel_does(mark, instead):
    expected = {"{.}": "a b/c.d", "{/}": "c.d.e", "{//}": "a b", "{/.}": "c.d"}
    done = qmill("run", f": {{}}; echo {instead}", "a b/c.d.e")
    assert done.stdout.decode() == expected[mark] + "\n"
    told = qmill("run", f"cp {{}} {mark}.bak", "x").stderr.decode()
    assert told.startswith(f"qmill run: {mark} belongs to GNU parallel: ")
    assert instead.partition("$(")[0].strip('"') in told


def test_an_input_that_is_appended_or_not_is_what_the_help_says():
    Path("a.txt").write_text("a\n")
    assert qmill("run", 'cat "$1" > "${1%.txt}.copy"', "a.txt").returncode == 0
    assert Path("a.copy").read_text() == "a\n"
    assert qmill("run", "awk '{print $1}'", "a.txt").stdout == b"a\n"
    assert qmill("run", "echo $#", "a.txt").stdout == b"1 a.txt\n"


OF_BASH = {
    "[[ -f {} ]] && echo yes": "[[",
    "if [[ -f {} ]]; then echo yes; fi": "[[",
    "source {}": "source",
    ": {} &> out": "&>",
    "cat <(echo {})": "<(",
    "cat <<< {}": "<<<",
}


@pytest.mark.skipif(
    shutil.which("dash") is None, reason="there is no dash, and other shells know more"
)
@pytest.mark.parametrize("command", OF_BASH)
def test_what_is_of_bash_is_refused_without_it(command):
    refused = qmill("run", command, "x")
    assert (refused.returncode, refused.stdout) == (2, b"")
    why = f"dash runs the command, and {OF_BASH[command]} is syntax of bash: choose it with --shell"
    assert why in str(refused)
    Path("x").write_text("echo yes")
    assert qmill("run", "--shell", "bash", command, "x").returncode == 0
    quoted = command.replace("{}", '"$1"')
    assert (
        b"is syntax of bash"
        not in qmill("run", f"bash -c '{quoted}' bash {{}} # [[ x ]]", "x").stderr
    )


def test_a_function_that_bash_has_exported_is_told():
    def told_by(command):
        line = f'f() {{ echo "<$1>"; }}; export -f f; {" ".join(COMMAND)} run {command} a'
        done = subprocess.run(["/bin/bash", "-c", line], capture_output=True, timeout=LIMIT_S)
        return done.stdout, b"f is a function of bash" in done.stderr

    assert told_by("'f {}'") == (b"", True)
    assert told_by('"$(declare -f f); f {}"') == (b"<a>\n", False)
    assert told_by("'echo of.f x-f {}'") == (b"of.f x-f a\n", False)


@pytest.mark.parametrize(
    ("options", "stdin", "expected"),
    [
        ([], b"a b\nc\n", ["<a b>", "<c>"]),
        ([], b"a\n\nlast", ["<a>", "<>", "<last>"]),
        ([], b"\xff\xfe\r\n", ["<\udcff\udcfe\r>"]),
        (["-0"], b"a\nb\0c", ["<a\nb>", "<c>"]),
        ([], b"", []),
        ([], b"x" * 131_071, ["<" + "x" * 131_071 + ">"]),
    ],
    ids=["lines", "empty, and no end of line", "no UTF-8", "NUL", "nothing", "the longest"],
)
def test_inputs_on_standard_input(options, stdin, expected):
    done = qmill("run", "-k", *options, "printf '<%s>\\0' {}", stdin=stdin)
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == expected
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_dash_stands_for_standard_input():
    assert qmill("run", "echo", "-", stdin=b"a\n").stdout == b"a\n"
    assert qmill("run", "-k", "echo", "a", "-").stdout == b"a\n-\n"


@pytest.mark.parametrize(
    ("stdin", "why"),
    [
        (b"x" * 131_072 + b"\n", b"the input has 131,072 bytes"),
        (b"a\0b\n", b"a NUL byte"),
    ],
)
def test_an_input_that_no_program_can_be_given_fails_alone(stdin, why):
    done = qmill("run", "echo", stdin=b"before\n" + stdin + b"after\n")
    assert sorted(done.stdout.split()) == [b"after", b"before"]
    assert why in done.stderr
    assert done.returncode == 1


def test_an_environment_that_is_too_large_is_told():
    program = "import os, sys; from qmill.command import main; "
    program += "os.environ.update((f'X{n}', 100_000 * 'x') for n in range(100)); "
    program += "sys.exit(main(['run', 'echo', 'a', 'b']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=LIMIT_S)
    assert b"sh: Argument list too long" in done.stderr
    assert done.returncode == 2
