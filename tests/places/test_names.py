"""Named queues where the home, the locale, the umask or the user is not what one would expect."""

from __future__ import annotations

import os
import shlex
import sys

import pytest

import qmill

from . import places

NOBODY = "65534"
UNSET = ["QMILL_DIR", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "LANG", "LC_ALL", "HOME"]

pytestmark = pytest.mark.skipif(not places.may_unshare(), reason="may have no own mounts")
needs_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="needs another user"
)


@pytest.fixture(params=["portable", *(["shared"] if qmill.core_info().core else [])])
def use(request, tmp_path):
    """Runs the program that uses named queues, and returns the folder, or what is refused.

    Its function takes the user, the umask, commands in own mounts, and variables.
    """

    def use(*commands, user=None, umask="022", **environ):
        settings = {"HOME": str(home), "QMILL_TRANSPORT": request.param} | environ
        env = []
        if user is not None:
            env = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"]
        env += ["env", *(f"-u{name}" for name in UNSET)]
        env += [f"{name}={value}" for name, value in settings.items() if value is not None]
        script = f"{places.in_own_mounts(*commands)} {shlex.join(env)}"
        return places.run("named.py", umask, script=script).strip()

    home = tmp_path / "home"
    home.mkdir()
    return use


@pytest.fixture
def usual(tmp_path):
    """The folder that is the default in the test's home."""
    return ascii(f"{tmp_path}/home/.local/state/qmill/{os.uname().nodename}")


@pytest.mark.parametrize(
    "environ",
    [
        {"LANG": "C", "LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"XDG_STATE_HOME": "relative/folder"},
        {"XDG_STATE_HOME": ""},
        {"XDG_RUNTIME_DIR": "/run/user/that/is/gone"},
        {"QMILL_DIR": ""},
    ],
    ids=str,
)
def test_the_folder_is_the_usual_one(use, usual, environ):
    assert use(**environ) == usual


@pytest.mark.parametrize("umask", ["000", "077", "177"])
def test_the_folder_and_its_files_are_this_users_alone(use, usual, umask):
    assert use(umask=umask) == usual


@needs_root
@pytest.mark.parametrize("home", [None, "", "/no/such/folder", "relative"])
def test_without_a_home_it_is_that_of_the_list_of_users(use, tmp_path, home):
    own = tmp_path / "own"
    own.mkdir()
    passwd = tmp_path / "passwd"
    passwd.write_text(f"root:x:0:0:root:{own}:/bin/sh\n")
    found = use(f"mount --bind {passwd} /etc/passwd", HOME=home)
    assert found == ascii(f"{own}/.local/state/qmill/{os.uname().nodename}")


def test_a_home_that_cannot_be_written_to_is_told(use, tmp_path):
    home = tmp_path / "home"
    told = use(f"mount -t tmpfs -o ro none {home}")
    assert told.startswith("PermissionError")
    assert f"{home}/.local/state" in told
    assert "Read-only file system; set QMILL_DIR to a folder" in told


@needs_root
@pytest.mark.parametrize("umask", ["022", "177"])
def test_another_user_has_another_folder(use, tmp_path, umask):
    """Also where HOME is still that of root, as `setpriv` and some `su` leave it."""
    at = tmp_path / "at"
    at.mkdir()
    commands = places.opened_to_all(sys.executable, at)
    commands.append("mount -t tmpfs -o mode=1777 none /var/tmp")
    found = use(*commands, user=NOBODY, umask=umask, TMPDIR="/var/tmp", HOME="/root")
    assert found == "'/var/tmp/qmill-65534'"


@needs_root
@pytest.mark.parametrize("commands", ["chown 65534", "chmod 777"])
def test_a_folder_that_another_user_can_write_to_is_refused(use, tmp_path, commands):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    told = use(f"{commands} {folder}", QMILL_DIR=str(folder))
    assert "must be a folder of this user that nobody else can write to" in told


@needs_root
def test_a_link_to_a_folder_is_refused(use, tmp_path):
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert "must be a folder of this user" in use(QMILL_DIR=str(tmp_path / "link"))


FULL = """
import os, qmill
queue = qmill.Queue(name="full", persistent=True)
count = 0
try:
    while True:
        queue.put(count.to_bytes(4, "big") * 10_000)
        count += 1
except MemoryError as error:
    print(error)
assert queue.qsize() == count > 10
assert queue.get() == bytes(40_000)
queue.put(bytes(40_000))  # there is room again
rest = os.open(os.path.join(os.environ["QMILL_DIR"], "rest"), os.O_CREAT | os.O_WRONLY)
try:
    while os.write(rest, bytes(4096)):
        pass
except OSError:
    pass
try:
    qmill.Queue(name="another")
except MemoryError as error:
    print(error)
os.ftruncate(rest, 0)
queue.close()
queue = qmill.Queue(name="full", persistent=True)
assert queue.qsize() == count
for number in range(1, count):
    assert queue.get() == number.to_bytes(4, "big") * 10_000
queue.unlink()
"""


@pytest.mark.skipif(not qmill.core_info().core, reason="the portable transport keeps it in memory")
def test_a_full_disk_refuses_the_put_and_loses_nothing(tmp_path):
    script = places.in_own_mounts(f"mount -t tmpfs -o size=3m,mode=700 none {tmp_path}")
    environ = {"QMILL_DIR": str(tmp_path), "QMILL_TRANSPORT": "shared"}
    told = places.run("-c", FULL, script=script, **environ)
    assert told.count("the file system no room") == 2
