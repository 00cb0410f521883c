"""`qmill run` and `qmill map`: shell commands and functions, called for each input."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from ..engines.program import Output, ProgramEngine
from ..errors import JobTimeout, NotSupported, WorkerDied
from ..jobs.fields import exception_text
from ._batch import CLOSED_PIPE, TROUBLE, Batch, Plan, UsageError, say, write
from ._inputs import read_items
from ._template import BadTemplate, Template

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from ..jobs.job import Job


def run(options: argparse.Namespace) -> int:
    """Run a shell command for each input; return the exit status.

    Raises:
        UsageError: The command line asks for something impossible.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it is ignored, exit codes are lost
    try:
        template = Template(options.subject, options.mark, options.shell)
        template.check()
        for hint in template.hints():
            say(hint)
        if options.dry_run:
            return _show_all(options, template.shown)
        engine = ProgramEngine(qid := _new_id(), options.jobs)
    except (BadTemplate, NotSupported) as error:
        raise UsageError(str(error)) from None
    return _batch(options, template, options.subject, qid, engine.take_output, engine)


def map_function(options: argparse.Namespace) -> int:
    """Call a function for each input; return the exit status.

    Raises:
        UsageError: The command line asks for something impossible.
    """
    name = options.subject
    function = _find(name)
    if options.dry_run:
        return _show_all(options, lambda given: f"{name}({given!r})")
    return _batch(options, _capturing(function, name), name, _new_id(), _returned, "process")


def _batch(
    options: argparse.Namespace,
    function: Callable[[str], Any],
    name: str,
    qid: str,
    read_output: Callable[[Job], Output],
    engine: Any,
) -> int:
    wanted = {key: value for key, value in vars(options).items() if key in Plan._fields}
    plan = Plan(
        **wanted
        | {
            "function": function,
            "name": name,
            "qid": qid,
            "read_output": read_output,
            "engine": engine,
            "max_jobs": options.jobs,
        }
    )
    batch = Batch(plan)
    return batch.run(_inputs(options, batch.wake))


def _new_id() -> str:
    return uuid.uuid4().hex[:8]


def _inputs(options: argparse.Namespace, wake: int) -> Iterable[str]:
    """Return the inputs; the standard input is not read before it is needed."""
    words: list[str] = options.inputs
    if words[:1] == ["--"]:
        return words[1:]
    if words not in ([], ["-"]):
        return words
    if os.isatty(0):
        say("the inputs are read from the terminal, one a line; Ctrl-D ends them")
    return read_items(0, b"\0" if options.null else b"\n", wake)


def _show_all(options: argparse.Namespace, show: Callable[[str], str]) -> int:
    """Print the commands or calls that would be run."""
    wake, other = os.pipe()
    try:
        for given in _inputs(options, wake):
            write(1, os.fsencode(show(given)) + b"\n")
    except BrokenPipeError:
        return CLOSED_PIPE
    except OSError as error:
        say(f"cannot write the output: {error.strerror}")
        return TROUBLE
    finally:
        os.close(wake)
        os.close(other)
    return 0


# -- functions -----------------------------------------------------------------------------------


class Returned(NamedTuple):
    """The result of a function as text, and the text that it has printed."""

    value: str
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return self.value


def _find(name: str) -> Callable[[str], Any]:
    """Import a function.

    Raises:
        UsageError: There is no such function.
    """
    from pkgutil import resolve_name

    if ":" not in name:
        raise UsageError(f"a function is named as module:function, such as math:sqrt; got {name!r}")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        function = resolve_name(name)
    except Exception as error:  # the module may raise anything when it is imported
        raise UsageError(f"cannot import {name!r}: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise UsageError(f"{name!r} cannot be called: it is a {type(function).__name__}")
    return function  # type: ignore[no-any-return]


def _capturing(function: Callable[[str], Any], name: str) -> Callable[[str], Returned]:
    """Return a function that calls another one, and returns its result and its printed text."""

    def call(given: str) -> Returned:
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                value = function(given)
                text = "" if value is None else str(value)
        except BaseException:  # print the text now, as only the exception is returned
            for stream, printed in ((sys.stdout, out), (sys.stderr, err)):
                stream.write(printed.getvalue())
                stream.flush()
            raise
        return Returned(text, out.getvalue(), err.getvalue())

    call.__name__ = name
    return call


def _returned(job: Job) -> Output:
    """Return the text that a job's function has printed and returned, or its traceback."""
    returned = job.output
    if isinstance(returned, Returned):
        line = f"{returned.value}\n" if returned.value else ""
        return Output(_bytes(returned.stdout + line), _bytes(returned.stderr))
    error = None if job.cancelled() else job.exception()
    if error is None or isinstance(error, (WorkerDied, JobTimeout)):
        return Output()
    return Output(b"", _bytes((exception_text(error) or "").rstrip() + "\n"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape" if _is_escaped(text) else "backslashreplace")


def _is_escaped(text: str) -> bool:
    """Return whether all surrogates in a text stand for bytes, as in an input that is not UTF-8."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
