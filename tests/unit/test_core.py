"""The native core: whether it is there, and which transport is used."""

from __future__ import annotations

import builtins
import os

import pytest

import qmill
from qmill.queues.portable.portable_queue import PortableQueue
from qmill.queues.shared import core

HAS_CORE = qmill.core_info().core


@pytest.fixture
def without_core(monkeypatch):
    """An installation where the core was not built."""
    real_import = builtins.__import__

    def refuse(name, globals=None, locals=None, fromlist=(), level=0):
        if "_ring" in (fromlist or ()):
            raise ImportError("it is not there")
        return real_import(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_the_core_is_used_where_it_is(monkeypatch):
    monkeypatch.delenv("QMILL_TRANSPORT", raising=False)
    info = qmill.core_info()
    assert info.transport == ("shared" if HAS_CORE else "portable")
    assert isinstance(qmill.Queue(), PortableQueue) is not HAS_CORE
    assert "native core" in info.why


def test_the_core_was_built_if_it_had_to_be():
    assert HAS_CORE or os.environ.get("QMILL_REQUIRE_CORE") != "1"


def test_without_the_core_queues_are_portable(monkeypatch, without_core):
    monkeypatch.delenv("QMILL_TRANSPORT", raising=False)
    assert qmill.core_info().transport == "portable"
    assert "it is not there" in qmill.core_info().why
    assert isinstance(qmill.Queue(), PortableQueue)


def test_without_the_core_shared_memory_is_refused_with_the_reason(monkeypatch, without_core):
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")
    assert qmill.core_info().transport is None
    assert "it is not there" in qmill.core_info().why
    with pytest.raises(qmill.NotSupported, match="it is not there"):
        qmill.Queue()


def test_portable_is_what_it_is_where_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "portable")
    assert qmill.core_info() == ("portable", HAS_CORE, "QMILL_TRANSPORT=portable")
    assert isinstance(qmill.Queue(), PortableQueue)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_it_is_for_linux(monkeypatch, platform):
    monkeypatch.setattr(core.sys, "platform", platform)
    assert platform in core.why_not()


@pytest.mark.parametrize("transport", core.MODULES)
def test_a_transport_is_in_the_module_that_a_fork_server_loads(monkeypatch, transport):
    if transport == "shared" and not HAS_CORE:
        pytest.skip("the native core is not built")
    monkeypatch.setenv("QMILL_TRANSPORT", transport)
    queue = qmill.Queue()
    assert type(queue).__module__ == f"qmill.{core.MODULES[transport]}"
    queue.close()
