"""Workers find the program's modules, wherever the working directory is by then."""

from __future__ import annotations

import os
import zipfile

import cloudpickle
import pytest

import qmill
from qmill.processes import launch

from . import places

# A console, or `python -c`: it imports what lies beside it, and goes elsewhere.
CONSOLE = """
import localmod, package.inner, os, sys
if sys.argv[2] == "qmill first":
    import qmill
    qmill.Queue
os.chdir("/")
import qmill
qmill.set_start_method(sys.argv[1])
def mine(x): return localmod.work(x) + 1
assert qmill.run(localmod.work, 2).result(20) == 4
if sys.argv[1] != "fork":  # a forked worker has this program's memory, which cannot import it now
    assert qmill.run(localmod.late, 2).result(20) == "late 2"
assert qmill.run(package.inner.work, 2).result(20) == "inner 2"
assert qmill.run(mine, 2).result(20) == 5
with qmill.JobQueue(1) as jobs:
    assert jobs.submit(localmod.work, 2).result(20) == 4
    assert jobs.submit(mine, 2).result(20) == 5
assert list(qmill.map(localmod.work, [1, 2])) == [2, 4]
print("done")
"""

# Entries that are no whole paths: a folder, one of PYTHONPATH, a zip file.
RELATIVE = """
import sys, os
sys.path[:0] = ["modules", "modules.zip"]
import qmill, localmod, zipped
qmill.set_start_method(sys.argv[1])
os.chdir("/")
assert qmill.run(localmod.work, 2).result(20) == 4
assert qmill.run(zipped.work, 2).result(20) == "zipped 2"
queue = qmill.Queue(name="relative")
queue.put(1)
assert queue.get() == 1
queue.close()
print("done")
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with modules, and one in it."""
    source = (
        "def work(x): return x * 2\ndef late(x):\n    import sibling\n    return sibling.work(x)\n"
    )
    inner = "def work(x): return f'inner {x}'\n"
    for place in (tmp_path, tmp_path / "modules"):
        (place / "package").mkdir(parents=True)
        (place / "localmod.py").write_text(source)
        (place / "sibling.py").write_text("def work(x): return f'late {x}'\n")
        (place / "package" / "__init__.py").write_text("")
        (place / "package" / "inner.py").write_text(inner)
    with zipfile.ZipFile(tmp_path / "modules.zip", "w") as archive:
        archive.writestr("zipped.py", "def work(x): return f'zipped {x}'\n")
    return tmp_path


@pytest.mark.parametrize(
    ("method", "order"),
    [*((method, "qmill last") for method in launch.METHODS), ("forkserver", "qmill first")],
)
def test_a_console_that_goes_elsewhere(method, order, folder):
    assert places.run("-c", CONSOLE, method, order, cwd=folder) == "done\n"


def test_relative_entries(method, folder):
    for place in (folder / "package", folder / "localmod.py", folder / "sibling.py"):
        place.rename(place.with_name(f"not_{place.name}"))  # only those in `modules` are left
    portable = {"QMILL_TRANSPORT": "portable"}  # its named queues start a program
    assert places.run("-c", RELATIVE, method, cwd=folder, **portable) == "done\n"


@pytest.mark.parametrize(("method", "flags"), [("spawn", ()), ("forkserver", ("-S",))])
def test_a_relative_variable(method, flags, folder):
    """Without the module `site` the interpreter leaves the entries of the variable as they are."""
    packages = {
        os.path.dirname(os.path.dirname(module.__file__)) for module in (qmill, cloudpickle)
    }
    path = os.pathsep.join(["modules", *packages])
    source = CONSOLE.replace('os.chdir("/")', 'sys.path.remove(""); os.chdir("/")')
    place = folder / "elsewhere"
    place.mkdir()
    (folder / "modules").rename(place / "modules")
    given = (*flags, "-c", source, method, "qmill first")
    assert places.run(*given, cwd=place, PYTHONPATH=path) == "done\n"


def test_modules_that_are_loaded_by_their_files(method):
    assert places.run("by_file.py", method) == "done\n"
