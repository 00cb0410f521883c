"""The native core: whether it is there, and which transport is used."""

from __future__ import annotations

import builtins

import pytest

import qmill
from qmill import _core
from qmill.queues.portable import PortableQueue


def test_the_default_is_told(monkeypatch):
    monkeypatch.delenv("QMILL_TRANSPORT", raising=False)
    info = qmill.core_info()
    assert info["transport"] == "portable"
    assert "QMILL_TRANSPORT=shared" in info["why"] or not info["core"]
    assert isinstance(qmill.Queue(), PortableQueue)


def test_shared_memory_is_used_when_it_is_asked_for(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")
    if qmill.core_info()["core"]:
        assert qmill.core_info()["transport"] == "shared"
        assert not isinstance(qmill.Queue(), PortableQueue)
    else:
        with pytest.raises(qmill.NotSupported, match="no native core"):
            qmill.Queue()


def test_without_the_core_it_is_refused_with_the_reason(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, globals=None, locals=None, fromlist=(), level=0):
        if "_ring" in (fromlist or ()):
            raise ImportError("it is not there")
        return real_import(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setenv("QMILL_TRANSPORT", "shared")
    assert "not built" in _core.why_not()
    assert qmill.core_info()["transport"] == "portable"
    with pytest.raises(qmill.NotSupported, match="it is not there"):
        qmill.Queue()


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_it_is_for_linux(monkeypatch, platform):
    monkeypatch.setattr(_core.sys, "platform", platform)
    assert platform in _core.why_not()
