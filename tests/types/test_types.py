"""Names that editors complete, and classes that take a type. Type checkers read user_code.py."""

from __future__ import annotations

import ast
import queue
from pathlib import Path

import jedi
import pytest

import qmill
from qmill.jobs.fields import FIELDS


def completed(source):
    here = jedi.InterpreterEnvironment()  # not another process
    names = {
        each.name for each in jedi.Script(f"import qmill\n{source}", environment=here).complete()
    }
    return {name for name in names if not name.startswith("_")}


def test_an_editor_completes_the_public_names():
    public = {name for name in qmill.__all__ if not name.startswith("_")}
    assert public <= completed("qmill.")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("qmill.JobQueue(2).", {"put", "submit", "map", "get", "wait", "summary", "frame"}),
        ("qmill.Queue(3).", {"put", "get", "get_many", "release", "statistics", "shutdown"}),
        ("qmill.Q().", {"put", "end", "stop", "sorted", "items", "requeue"}),
        ("qmill.run(print).", {"result", "exception", "join", "kill", "exitcode"}),
    ],
)
def test_an_editor_completes_the_methods(source, expected):
    assert expected <= completed(source)


def test_a_job_shows_what_is_for_its_users_and_nothing_else():
    own = {name for name in dir(qmill.Job) if not name.startswith("_")}
    future = {
        *("add_done_callback", "cancel", "cancelled", "done", "exception", "result", "running"),
        *("set_exception", "set_result", "set_running_or_notify_cancel"),
    }
    fields = set(FIELDS) - {"qid"}
    assert own == future | fields | {"to_dict"}


def test_the_stub_has_the_public_names():
    stub = Path(qmill.__file__).with_suffix(".pyi")
    names = set()
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names}
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    assert names == set(qmill.__all__)


@pytest.mark.parametrize("cls", [qmill.Queue, qmill.Q, qmill.Msg, qmill.Worker, qmill.Job])
def test_a_class_takes_a_type_in_brackets_as_those_of_the_standard_library_do(cls):
    alias = cls[int]
    assert type(alias) is type(queue.Queue[int])
    assert (alias.__origin__, alias.__args__) == (cls, (int,))


def test_a_class_with_a_type_in_brackets_makes_what_the_class_makes():
    made = qmill.Queue[int](maxsize=3)
    assert isinstance(made, qmill.Queue)
    assert made.maxsize == 3
    assert qmill.Msg[int](3) == qmill.Msg(3)
