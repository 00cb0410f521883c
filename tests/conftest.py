"""What holds for every test: it leaves no process, no thread and no shared memory behind.

How that is found out, and what may stay, is told by `qmill.testing.nothing_left_behind`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from multiprocessing.util import Finalize
from pathlib import Path

import pytest

from qmill import testing

# --- a run of the tests has its own directory for temporary files: another run beside it, or the
# --- user's own programs, would else be taken for what a test left behind


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses a Dask cluster in the tests' own process, where Dask's threads then stay."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if "cluster" in item.path.parts or params.get("target") == "dask":
            item.add_marker("cluster")


def be_neutral() -> None:
    """Hand on nothing to children that a developer's shell has set, however pytest was started."""
    neutral = Path(__file__).parents[1] / "tools" / "neutral.sh"
    told = subprocess.run(["sh", neutral, "env", "-0"], stdout=subprocess.PIPE, check=True).stdout
    kept = dict(os.fsdecode(line).split("=", 1) for line in told.split(b"\0") if line)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    os.environ["LANG"] = kept["LANG"]


def check_compiled() -> None:
    """Refuse to test an older text of a module that is compiled as it is."""
    package = Path(__file__).parents[1] / "src" / "qmill"
    for source in [package / "messages.py", *package.glob("queues/*.py")]:
        compiled = source.with_suffix(EXTENSION_SUFFIXES[0])
        if compiled.exists() and compiled.stat().st_mtime < source.stat().st_mtime:
            pytest.exit(f"{compiled} is older than its source: run `make .venv/.run`", 3)


def pytest_configure() -> None:
    check_compiled()
    be_neutral()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has this in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # keeps tmp_path in place
    # A short name: the path of a Unix socket may have about 100 bytes.
    private = tempfile.mkdtemp(prefix="qt-")
    # After multiprocessing's own directory, which has -100, and not in a forked child's exit.
    Finalize(None, shutil.rmtree, (private, True), exitpriority=-200)
    os.environ["TMPDIR"] = private
    tempfile.tempdir = None  # so that it is looked up again
    os.environ["QMILL_DIR"] = os.path.join(private, "names")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Compare what there is before and after the test, including its other fixtures' teardown."""
    # Not descriptors: pytest and libraries open some for later.
    with testing.nothing_left_behind(descriptors=False):
        yield
