"""Objects that cannot be rebuilt, and exceptions."""

from __future__ import annotations

import copyreg
import sys
import types
from contextlib import contextmanager

import numpy
import pytest

import qmill
from qmill.packing import remote_errors
from qmill.packing.remote_errors import dump_error, load_error
from qmill.packing.serialize import dumps, loads

from .channel import LARGE, LOCK, Unprintable

# -- what cannot be rebuilt -----------------------------------------------------------------------


class Unrebuildable:
    def __init__(self):
        self.state = 1

    def __setstate__(self, state):
        raise ValueError("not here")


@contextmanager
def module(name, source):
    sys.modules[name] = found = types.ModuleType(name)
    exec(source, found.__dict__)
    try:
        yield found
    finally:
        del sys.modules[name]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": (x,)}])
def test_an_object_that_cannot_be_rebuilt_is_named(wrap):
    data = dumps(wrap(Unrebuildable()))
    with pytest.raises(qmill.SerializationError, match=r"Unrebuildable.*not here"):
        loads(data)


def test_a_module_that_is_not_there_is_named():
    with module("only_there", "class Thing: pass") as there:
        data = dumps([there.Thing()])
    with pytest.raises(qmill.SerializationError, match=r"only_there\.Thing.*only_there"):
        loads(data)


def test_an_object_with_buffers_that_cannot_be_rebuilt_is_named():
    odd = Unrebuildable()
    odd.state = numpy.zeros(LARGE, dtype="u1")
    data = dumps(odd)
    with pytest.raises(qmill.SerializationError, match="Unrebuildable"):
        loads(data)


def test_an_object_of_main_that_cannot_be_rebuilt_is_named(channel, sender):
    sender.run("class Odd:\n def __setstate__(self, s): raise ValueError('no')")
    sender.run("odd = Odd(); odd.x = 1")
    packed = channel.pack(sender["odd"])
    with channel.reader, pytest.raises(qmill.SerializationError, match=r"Odd.*no"):
        loads(packed, channel)


@pytest.mark.parametrize(
    "obj",
    [["text", 1], lambda: 1, numpy.zeros(LARGE, dtype="u1")],
    ids=["plain", "by value", "array"],
)
@pytest.mark.parametrize("kept", [1, 5, 30, "half"])
def test_damaged_data_is_an_error(obj, kept):
    data = dumps(obj)
    kept = len(data) // 2 if kept == "half" else min(kept, len(data) // 2)
    with pytest.raises(qmill.SerializationError):
        loads(data[:kept])


# -- exceptions -----------------------------------------------------------------------------------


class OddInit(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class Unpicklable(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.lock = LOCK


class BrokenStr(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class BrokenReduce(Exception):
    def __reduce__(self):
        raise ValueError("no")


class RebuiltAsText(Exception):
    def __reduce__(self):
        return str, ("not an exception",)


class RebuildExits(Exception):
    def __reduce__(self):
        return sys.exit, (3,)


def raised(error):
    """Return the error with a traceback, as an `except` gets it."""
    try:
        raise error
    except BaseException as caught:
        return caught


def crossed(error):
    return load_error(dump_error(raised(error)))


@pytest.mark.parametrize(
    "error", [ValueError("text", 3), KeyError("k"), OSError(2, "no"), KeyboardInterrupt()], ids=repr
)
def test_an_exception_crosses(error):
    same = crossed(error)
    assert type(same) is type(error)
    assert same.args == error.args


def test_the_remote_traceback_is_the_cause():
    cause = crossed(ValueError("text")).__cause__
    assert isinstance(cause, remote_errors.RemoteTraceback)
    assert "in raised" in str(cause)
    assert "ValueError: text" in str(cause)


def test_the_remote_traceback_has_the_causes_of_the_remote_exception():
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first
    except ValueError as error:
        same = load_error(dump_error(error))
    assert "KeyError: 'first'" in str(same.__cause__)


def test_notes_are_kept():
    error = ValueError("text")
    error.add_note("while reading line 3")
    same = crossed(error)
    assert same.__notes__ == ["while reading line 3"]
    assert "while reading line 3" in str(same.__cause__)


def test_attributes_are_kept():
    error = ValueError("text")
    error.line = 3
    assert crossed(error).line == 3


def test_an_exception_group_crosses():
    same = crossed(ExceptionGroup("several", [ValueError(1), KeyError(2)]))
    assert [type(inner) for inner in same.exceptions] == [ValueError, KeyError]


@pytest.mark.parametrize(
    "error",
    [OddInit(3, "odd"), Unpicklable("odd"), BrokenReduce("odd"), RebuiltAsText("odd")],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_cannot_cross_comes_wrapped(error):
    """PAINS 7: an exception that cannot be unpickled hangs the pool."""
    same = crossed(error)
    assert isinstance(same, qmill.SerializationError)
    assert type(error).__name__ in str(same)
    assert "odd" in str(same)
    assert "in raised" in str(same.__cause__)


class Traced(Exception):
    """A traceback that copyreg packs with its frames, as tblib has it do."""


def _reduce_traced(error):
    assert error.__traceback__ is None, "frames are packed"
    return Traced, error.args


def test_an_error_travels_without_its_frames_whatever_copyreg_is_told(monkeypatch):
    monkeypatch.setitem(copyreg.dispatch_table, Traced, _reduce_traced)
    error = raised(Traced("outer"))
    error.__cause__ = raised(Traced("cause"))
    error.__context__ = error  # a cycle
    same = load_error(dump_error(ExceptionGroup("group", [error])))
    assert type(same.exceptions[0]) is Traced


@pytest.mark.parametrize("error", [BrokenStr("odd"), Unpicklable(Unprintable())])
def test_dump_error_never_fails(error):
    """PAINS 7: an exception that cannot be unpickled hangs the pool."""
    same = crossed(error)
    assert type(error).__name__ in f"{type(same).__name__} {same.__cause__}"


def test_an_exception_whose_rebuilding_exits_does_not_end_the_reader():
    """PAINS 7: an exception that cannot be unpickled hangs the pool."""
    assert isinstance(crossed(RebuildExits()), Exception)


def test_a_local_exception_class_keeps_its_identity():
    class Local(Exception):
        pass

    assert type(crossed(Local("x"))) is Local


def test_an_exception_class_of_the_workers_main_needs_no_channel(sender, reader):
    sender.run("class Failure(Exception): pass")
    with sender:
        packed = dump_error(raised(sender["Failure"]("x")))
    with reader:
        same = load_error(packed)
    assert type(same).__name__ == "Failure"
    assert same.args == ("x",)
