"""The folder of this user's named queues: the same one in every session of the user.

    QMILL_DIR                              if it is set
    XDG_STATE_HOME/qmill/HOST              XDG_STATE_HOME is ~/.local/state unless it is set
    TMPDIR/qmill-UID                       for a user who has no home folder

The folder is in the home, as a desktop session and cron have the same one, and a logout removes
nothing there; neither is true of `XDG_RUNTIME_DIR`. Hosts may share a home but not a queue, so each
host has a folder of its own there.
Earlier versions had their folder elsewhere: see `old_folders`.
"""

from __future__ import annotations

import os
import re
import stat

_REMEDY = "set QMILL_DIR to a folder on a disk of this computer that belongs to this user"

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|lustre|gpfs|beegfs|panfs|orangefs|pvfs2|coda|ncpfs|9p"
    r"|fuse\.(?:sshfs|glusterfs|ceph|cephfs|s3fs|rclone|davfs|gvfsd-fuse|moosefs|juicefs)"
)
"""File systems whose files another host can change, by their names in the list of mounts."""


def names_folder() -> str:
    """Return this user's folder for named queues, made if need be.

    Raises:
        PermissionError: The folder cannot be made, belongs to another user, can be written by
            others, or is on a network file system.
    """
    folder = os.environ.get("QMILL_DIR") or _default()
    try:
        _make(os.path.abspath(folder))
        state = os.lstat(folder)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise PermissionError(
            f"the folder of named queues, {folder}, cannot be made: {why}; {_REMEDY}"
        ) from None
    if not _is_private(state):
        raise PermissionError(
            f"the folder of named queues, {folder}, must be a folder of this user that nobody else "
            f"can write to; {_REMEDY}"
        )
    if (system := file_system(folder)) is not None and _NETWORK.fullmatch(system):
        raise PermissionError(
            f"the folder of named queues, {folder}, is on a network file system ({system}), where "
            f"a queue in shared memory would be damaged; {_REMEDY}"
        )
    return folder


def _default() -> str:
    home = _home()
    if home is None:
        return _temporary()
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state) or _is_of_another(state):
        state = os.path.join(home, ".local", "state")
    return os.path.join(state, "qmill", _host())


def _home() -> str | None:
    """Return this user's home folder; HOME may be that of the user who has called `sudo`."""
    if not hasattr(os, "getuid"):
        return os.path.expanduser("~")
    home = os.environ.get("HOME", "")
    if os.path.isdir(home) and os.path.isabs(home) and not _is_of_another(home):
        return home
    import pwd

    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None
    return home if os.path.isdir(home) and not _is_of_another(home) else None


def _is_of_another(path: str) -> bool:
    try:
        return hasattr(os, "getuid") and os.stat(path).st_uid != os.getuid()
    except OSError:  # it is still to be made
        return False


def _host() -> str:
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return re.sub(r"[^\w.-]|^\.", "_", name, flags=re.ASCII) or "localhost"


def _temporary() -> str:
    import tempfile

    return os.path.join(tempfile.gettempdir(), _of_user())


def _of_user() -> str:
    return f"qmill-{os.getuid() if hasattr(os, 'getuid') else os.environ.get('USERNAME', '')}"


def _make(folder: str) -> None:
    """Make a folder and its missing parents, open to this user alone under any umask."""
    if os.path.isdir(folder):
        return
    _make(os.path.dirname(folder))
    try:
        os.mkdir(folder, 0o700)
        os.chmod(folder, 0o700)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise


def _is_private(state: os.stat_result) -> bool:
    is_own = not hasattr(os, "getuid") or (
        state.st_uid == os.getuid() and not state.st_mode & 0o022
    )
    return stat.S_ISDIR(state.st_mode) and is_own


def file_system(folder: str) -> str | None:
    """Return the kind of the file system that a folder is on; None where that is not known."""
    path = os.path.join(os.path.realpath(folder), "")
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    longest, kind = -1, None
    for line in lines:
        before, _, after = line.partition(b" - ")
        point = os.path.join(_unescaped(before.split()[4]), "")
        if path.startswith(point) and len(point) >= longest:  # the last of equal ones is on top
            longest, kind = len(point), os.fsdecode(after.split()[0])
    return kind


def _unescaped(name: bytes) -> str:
    r"""Read a name in which \040 stands for a space."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), name))


def old_folders() -> list[str]:
    """Return the folders in which earlier versions have had this user's queues; none is made."""
    if os.environ.get("QMILL_DIR") or not hasattr(os, "getuid"):
        return []
    runtime = [os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.getuid()}"]
    paths = [os.path.join(parent, _of_user()) for parent in runtime if os.path.isabs(parent)]
    paths = [*dict.fromkeys([*paths, _temporary()])]
    current = _default()
    return [path for path in paths if path != current and _is_old_folder(path)]


def _is_old_folder(path: str) -> bool:
    try:
        return _is_private(os.lstat(path))
    except OSError:
        return False
