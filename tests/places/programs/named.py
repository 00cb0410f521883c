"""Opens named queues, with names and messages that are not of ASCII, and says where they are."""

import os
import stat
import sys

import qmill
from qmill.queues.names import folders

NAME, DATA = "B\u00fccher-\u65e5\u672c", "\u00e4\u65e5"


def use():
    queue = qmill.Queue(name=NAME, persistent=True)
    queue.put(DATA)
    other = qmill.Queue(name=NAME)
    assert other.get(timeout=20) == DATA
    assert other.name == NAME
    folder = folders.names_folder()
    modes = [stat.S_IMODE(os.stat(folder).st_mode)]
    modes += [stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(folder)]
    assert not any(mode & 0o077 for mode in modes), modes
    queue.unlink()
    other.close()
    queue.close()
    return folder


def main(umask):
    os.umask(int(umask, 8))
    try:
        print(ascii(use()))
    except PermissionError as error:
        print("PermissionError", ascii(str(error)))


if __name__ == "__main__":
    main(*sys.argv[1:])
