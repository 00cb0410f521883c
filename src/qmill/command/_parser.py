"""The arguments of the command `qmill`, and the text of `--help`."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from ..workers.api import NUM_CPUS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EXAMPLES = """\
examples:
  qmill run 'gzip -k {}' *.txt                      one job a file, as many as processors
  ls *.wav | qmill run -k 'lame {} "${1%%.wav}.mp3"'  inputs from standard input
  qmill run -j 8 --timeout 60 --log runs.csv 'curl -sO {}' < urls.txt
  qmill run --resume --log runs.csv 'curl -sO {}' < urls.txt
  qmill map os.path:getsize *.txt
  qmill summary runs.csv; qmill plot runs.csv -o gantt.png; qmill trace runs.csv -o trace.json
"""

_RUN = """\
Run a shell command for each input. {} stands for the input, anywhere in the command. The shell,
dash or else /bin/sh, also has the input as $1, so "${1%.txt}.pdf" and the like work. If a command
has neither {} nor $1, the input is appended. Inputs are data: spaces, quotes, ; and $() in them
are never run as code, and a command that would run them is refused.
"""

_RUN_EXAMPLES = """\
examples:
  qmill run 'gzip -k {}' *.txt
  find . -name '*.png' -print0 | qmill run -0 'optipng -quiet {}'
  seq 100 | qmill run -k -j 4 'factor {}'
  qmill run --log runs.csv --resume --retries 2 --timeout 60 'curl -sfO {}' < urls.txt

exit status: the number of jobs that failed, 101 for more than 100; 2 if the command line is wrong;
130 after Ctrl-C, 141 if the output's reader has closed it, 255 if qmill could not continue.
"""

_MAP = """\
Call a Python function for each input, which is a str, in worker processes, and print the results
(nothing for None). The module may also be in the working directory.
"""

_MAP_EXAMPLES = """\
examples:
  qmill map os.path:getsize *.txt
  qmill map -k --log runs.csv thumbnails:make < files.txt

exit status: as for `qmill run`.
"""


_SEPARATORS = {
    ":::": "write the inputs after the command, without a mark",
    "::::": "give the lines of a file as standard input, by < FILE",
    ":::+": "each job gets one input",
    "::::+": "each job gets one input",
}
"""Marks that GNU parallel has before inputs, and the way to give inputs here."""

_ELSEWHERE = {
    "--joblog": "--log FILE.csv writes a log of the jobs",
    "-P": "-j N sets how many jobs run at a time",
    "--max-procs": "-j N sets how many jobs run at a time",
    "--halt": "--fail-fast ends all jobs at the first failure",
    "--bar": "--progress shows a bar",
    "--eta": "--progress shows a bar",
    "--dryrun": "the option is --dry-run, with a hyphen",
    "--results": "write > {}.out in the command",
    "-a": "give the lines of a file as standard input, by < FILE",
    "--arg-file": "give the lines of a file as standard input, by < FILE",
    "-N": "each job gets one input",
    "-L": "each job gets one input",
}
"""Options of xargs and GNU parallel, and their counterparts here."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        self.set_defaults(parser=self)  # a subcommand's parser replaces the main one

    def print_help(self, file: Any = None) -> None:
        """Write the help; unlike `ArgumentParser`, raise an error if it cannot be written."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Print an error, refer to --help, and exit."""
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        parser.exit(message=f"qmill {version('qmill')}\n")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line; `options.call(options)` executes it.

    Args:
        arguments: The words after the program's name; None for `sys.argv`.

    Raises:
        SystemExit: Help was asked for, or a usage error was printed.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = _make_parser()
    options, unknown = parser.parse_known_args(words)
    if unknown:
        if words.index(unknown[0]) > words.index(options.command):
            parser = options.parser
        option = unknown[0].partition("=")[0]
        known = _ELSEWHERE.get(option) or _ELSEWHERE.get(option[:2])
        parser.error(f"there is no option {option}" + (f": {known}" if known else ""))
    return options


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="qmill",
        description="Parallel work with queues: run commands and functions, and report on them.",
        epilog=_EXAMPLES.replace("%%", "%"),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    _add_run(commands)
    _add_map(commands)
    _add_summary(commands)
    _add_plot(commands)
    _add_trace(commands)
    _add_queues(commands)
    return parser


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="run a shell command for each input",
        description=_RUN,
        epilog=_RUN_EXAMPLES,
        usage="qmill run [OPTION ...] 'COMMAND {}' [INPUT ...]",
    )
    _add_inputs(parser, "COMMAND", "the shell command, then the inputs")
    parser.add_argument(
        "--shell",
        metavar="PATH",
        help="the shell that runs the command; by default dash if it is installed, else /bin/sh",
    )
    _add_work(parser, "COMMAND", "run")


def _add_map(commands: Any) -> None:
    parser = commands.add_parser(
        "map",
        help="call a Python function for each input",
        description=_MAP,
        epilog=_MAP_EXAMPLES,
        usage="qmill map [OPTION ...] MODULE:FUNCTION [INPUT ...]",
    )
    _add_inputs(parser, "MODULE:FUNCTION", "the function, then the inputs")
    _add_work(parser, "MODULE:FUNCTION", "map_function")


def _add_inputs(parser: argparse.ArgumentParser, subject: str, what: str) -> None:
    parser.add_argument(  # one argument: argparse would remove a -- between two
        "words",
        metavar=subject,
        nargs=argparse.REMAINDER,
        help=f"{what}. Without inputs, or with -, each line of standard input is one. All words "
        "after the first one are inputs, so options must come before it. A -- before the inputs is "
        "left out; inputs after it may look like options",
    )
    parser.add_argument(
        "-0", "--null", action="store_true", help="inputs on the standard input end with NUL"
    )
    parser.add_argument(
        "-I",
        dest="mark",
        metavar="TEXT",
        type=_mark,
        default="{}",
        help="TEXT stands for the input, not {}",
    )


def _add_work(parser: argparse.ArgumentParser, subject: str, function: str) -> None:
    add = parser.add_argument
    add(
        "-j",
        "--jobs",
        metavar="N",
        type=_count,
        default=NUM_CPUS,
        help="how many jobs run at a time; by default %(default)s, the number of processors",
    )
    add(
        "--timeout",
        metavar="S",
        type=_seconds,
        help="kill jobs that run longer, with their processes: SIGTERM, and SIGKILL 2 s later",
    )
    add(
        "--retries",
        metavar="N",
        type=_natural,
        default=0,
        help="try a job that has failed or timed out N more times",
    )
    add(
        "--lane",
        metavar="TEXT",
        help="jobs of one lane run one after another. {} in the text is the input: with --lane {}, "
        "equal inputs never run at the same time",
    )
    add(
        "--priority",
        metavar="NUMBER",
        default="100",
        help=f"of the {_ahead()} inputs that are read ahead, those with lower numbers run first; "
        "{} is the input, if it is a number",
    )
    add("-k", "--keep-order", action="store_true", help="write outputs in the order of the inputs")
    add("--fail-fast", action="store_true", help="end all jobs at the first failure")
    add("-n", "--dry-run", action="store_true", help="print the commands or calls, and run nothing")
    add("--log", metavar="FILE.csv", help="append a record of each job")
    add(
        "--spreadsheet",
        action="store_true",
        help="write texts into the --log so that a spreadsheet takes none for a formula",
    )
    add("--resume", action="store_true", help="skip inputs that are done according to the --log")
    add("--trace", metavar="FILE.json", help="write a timeline for ui.perfetto.dev")
    add("--plot", metavar="FILE.png", help="draw a Gantt chart; also .svg, .pdf")
    add("--progress", action="store_true", help="show a progress bar on a terminal")
    parser.set_defaults(call=_checked(parser, subject, _work(function)))


def _ahead() -> str:
    return "200 and more"


def _work(name: str) -> Callable[[argparse.Namespace], int]:
    def call(options: argparse.Namespace) -> int:
        from . import _work

        function: Callable[[argparse.Namespace], int] = getattr(_work, name)
        return function(options)

    return call


_IF_INPUT = "If it is an input, put -- before the first input"


def _doubtful(inputs: list[str]) -> list[str]:
    """Return the inputs that may be meant as options or marks; those after -- are not."""
    return [] if inputs[:1] == ["--"] else inputs


def _checked(
    parser: argparse.ArgumentParser, subject: str, call: Callable[[argparse.Namespace], int]
) -> Callable[[argparse.Namespace], int]:
    """Check rules that the parser cannot, and report errors as it does."""

    def checked(options: argparse.Namespace) -> int:
        from ._batch import UsageError
        from ._template import FOREIGN, foreign

        if options.resume and options.log is None:
            parser.error("--resume needs --log FILE.csv, the log of the run to resume")
        if options.spreadsheet and options.log is None:
            parser.error("--spreadsheet needs --log FILE.csv, the log to write")
        if options.words[:1] == ["--"]:
            del options.words[0]
        if not options.words:
            parser.error(f"the following arguments are required: {subject}")
        options.subject, *options.inputs = options.words
        for word in [options.subject, *_doubtful(options.inputs)]:
            if why := _SEPARATORS.get(word):
                parser.error(f"{word} belongs to GNU parallel: {why}. {_IF_INPUT}")
        for word in _doubtful(options.inputs):
            if word == options.mark:
                parser.error(
                    f"{word} comes after the command, where inputs are expected: put the whole "
                    f"command into one pair of quotes. {_IF_INPUT}"
                )
            if word.partition("=")[0] in parser._option_string_actions:
                parser.error(
                    f"{word} comes after the command, where inputs are expected: put it before the "
                    f"command. {_IF_INPUT}"
                )
        for option in ("lane", "priority"):
            found = FOREIGN.search(getattr(options, option) or "")
            if found is not None and options.mark == "{}":
                parser.error(f"argument --{option}: {foreign(found[0])}")
        try:
            return call(options)
        except UsageError as error:
            parser.error(str(error))

    return checked


def _add_log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="FILE.csv", help="a log of --log or JobQueue(log_file=)")


def _add_summary(commands: Any) -> None:
    parser = commands.add_parser(
        "summary",
        help="summarise the jobs of a log",
        description="Print a summary of the jobs of a log: counts, times, workers, errors.",
        epilog="example:\n  qmill summary runs.csv",
    )
    _add_log(parser)
    parser.set_defaults(call=_look(parser, "summary"))


def _add_plot(commands: Any) -> None:
    parser = commands.add_parser(
        "plot",
        help="draw a Gantt chart of a log",
        description="Draw a Gantt chart of the jobs of a log.",
        epilog="example:\n  qmill plot runs.csv -o gantt.png --color-by state",
    )
    _add_log(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="a .png, .svg or .pdf file"
    )
    for name, what in (("color", "colours the bars"), ("facet", "makes panels")):
        parser.add_argument(
            f"--{name}-by",
            metavar="COLUMN",
            default="qid",
            help=f"the column that {what}: state, lane, priority, worker, ...; by default qid",
        )
    parser.add_argument("--title", metavar="TEXT", help="the title above the chart")
    parser.set_defaults(call=_look(parser, "plot"))


def _add_trace(commands: Any) -> None:
    parser = commands.add_parser(
        "trace",
        help="make a timeline of a log for Perfetto",
        description="Turn a log into a trace, which https://ui.perfetto.dev shows and zooms.",
        epilog="example:\n  qmill trace runs.csv -o trace.json",
    )
    _add_log(parser)
    parser.add_argument("-o", "--output", metavar="FILE.json", required=True, help="the trace")
    parser.set_defaults(call=_look(parser, "trace"))


def _add_queues(commands: Any) -> None:
    parser = commands.add_parser(
        "queues",
        help="list named queues, and remove leftovers",
        description="List this user's named queues: how many items wait in each, and which "
        "processes have it open.",
        epilog="examples:\n  qmill queues\n  qmill queues --clean\n  qmill queues --remove orders",
    )
    parser.add_argument(
        "--clean", action="store_true", help="remove the leftovers of killed brokers"
    )
    parser.add_argument(
        "--remove",
        metavar="NAME",
        nargs="+",
        default=[],
        help="remove persistent queues and their messages; refused while a process has one open",
    )
    parser.set_defaults(call=_look(parser, "queues"))


def _look(parser: argparse.ArgumentParser, name: str) -> Callable[[argparse.Namespace], int]:
    def call(options: argparse.Namespace) -> int:
        from . import _look
        from ._batch import UsageError

        function: Callable[[argparse.Namespace], int] = getattr(_look, name)
        try:
            return function(options)
        except UsageError as error:
            parser.error(str(error))

    return call


# -- kinds of arguments --------------------------------------------------------------------------


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def _mark(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text
