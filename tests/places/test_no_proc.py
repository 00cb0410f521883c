"""A chroot or a sandbox without /proc: queues are portable, and nothing hangs or is lost."""

from __future__ import annotations

import pytest

import qmill
from qmill.queues.shared import core

from . import places

HAS_CORE = qmill.core_info().core
no_proc = places.in_own_mounts("mount -t tmpfs none /proc")
needs_mounts = pytest.mark.skipif(not places.may_unshare(), reason="may have no own mounts")


@needs_mounts
def test_all_works(method):
    assert places.run("no_proc.py", method, script=no_proc) == "done\n"


@needs_mounts
@pytest.mark.skipif(not HAS_CORE, reason="needs the native core")
def test_shared_memory_is_refused_with_the_reason():
    source = "import qmill; print(qmill.core_info()); qmill.Queue()"
    script = f"{no_proc} env QMILL_TRANSPORT=shared"
    with pytest.raises(AssertionError, match="NotSupported.*the native core cannot be used.*/proc"):
        places.run("-c", source, script=script)


@pytest.mark.skipif(not HAS_CORE, reason="needs the native core")
@pytest.mark.parametrize("refused", ["memfd_create", "open"])
def test_the_core_is_not_used_where_the_system_refuses_what_it_needs(monkeypatch, refused):
    def refuse(*_):
        raise PermissionError(1, "not here")

    monkeypatch.delenv("QMILL_TRANSPORT", raising=False)
    monkeypatch.setattr(core, "_has_tried", False)
    with monkeypatch.context() as patch:
        patch.setattr(core.os, refused, refuse)
        told = qmill.core_info()
    assert told.transport == "portable"
    assert "not here" in told.why
    assert qmill.core_info().transport == "shared"
