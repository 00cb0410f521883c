"""`core_info`: which transport queues use in this process, and why."""

from __future__ import annotations

import os
from typing import NamedTuple

from ....errors import NotSupported
from . import choose, why_not


class CoreInfo(NamedTuple):
    """Which transport `qmill.Queue` uses in this process, and why.

    Attributes:
        transport: "shared" or "portable"; None if `QMILL_TRANSPORT` names one that cannot be had.
        core: Whether the native core can be used in this process, as tried.
        why: The reason, a sentence.
    """

    transport: str | None
    core: bool
    why: str


def core_info() -> CoreInfo:
    """Return the transport that `qmill.Queue` uses, and why: see `CoreInfo`."""
    reason = why_not()
    has_core = reason is None
    try:
        transport = choose()
    except NotSupported as error:
        return CoreInfo(None, has_core, str(error))
    if os.environ.get("QMILL_TRANSPORT"):
        return CoreInfo(transport, has_core, f"QMILL_TRANSPORT={transport}")
    if has_core:
        return CoreInfo(transport, has_core, "the native core is there")
    return CoreInfo(transport, has_core, f"the native core cannot be used: {reason}")
