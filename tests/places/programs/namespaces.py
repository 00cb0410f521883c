"""Queues whose readers are in other pid namespaces, and without /proc."""

import ctypes
import os
import signal
import sys

import qmill

CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000
MOUNT = {
    "own_proc": "mount --make-rprivate / && mount -t proc proc /proc",
    "no_proc": "mount --make-rprivate / && mount -t tmpfs none /proc",
    "outer_proc": "true",
}
libc = ctypes.CDLL(None)


class Reader:
    """A reader forked into a pid namespace of its own, or only into mounts of its own.

    Args:
        messages: The `Q` of which it takes one message, to keep it.
        flags: The namespaces that it has of its own.
        mount: What it mounts there.
    """

    def __init__(self, messages, flags, mount):
        told, tell = os.pipe()
        self._middle = os.fork()
        if self._middle == 0:
            try:
                assert libc.unshare(flags) == 0
                if flags & CLONE_NEWPID and (inner := os.fork()):
                    os.waitpid(inner, 0)
                    os._exit(0)
                assert os.system(mount) == 0
                for message in messages:
                    os.write(tell, f"{os.getpid()} {message.data}\n".encode())
                    signal.pause()
            finally:
                os._exit(1)
        os.close(tell)
        with os.fdopen(told) as file:
            self.pid, self.data = file.readline().split()

    def kill(self):
        """End it and wait until it has ended."""
        with open(f"/proc/{self._middle}/task/{self._middle}/children") as file:
            inner = [int(word) for word in file.read().split()]
        for pid in inner or [self._middle]:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(self._middle, 0)


def again(messages):
    """Return the messages that come now, without waiting for others."""
    found = []
    while True:
        try:
            found.append(messages.get(timeout=0.5).data)
        except qmill.Empty:
            return found


def equal_numbers(where):
    """Two readers that are both process 1: the death of one says nothing of the other."""
    messages = qmill.Q()
    flags = CLONE_NEWPID | CLONE_NEWNS
    messages.put("first")
    first = Reader(messages, flags, MOUNT[where])
    messages.put("second")
    second = Reader(messages, flags, MOUNT[where])
    assert (first.pid, first.data, second.pid, second.data) == ("1", "first", "1", "second")
    assert again(messages) == []
    second.kill()
    assert again(messages) == (["second"] if where != "no_proc" else [])
    first.kill()
    assert again(messages) == (["first"] if where != "no_proc" else [])


def hidden_proc():
    """A reader that sees no /proc, in the program's own namespace: it is known by its number."""
    messages = qmill.Q()
    messages.put("one")
    reader = Reader(messages, CLONE_NEWNS, MOUNT["no_proc"])
    assert reader.data == "one"
    assert again(messages) == []
    reader.kill()
    assert again(messages) == ["one"]


def attach():
    """Open a queue of another pid namespace by its name, and by a pickle."""
    queue = qmill.Queue(name="theirs")
    queue.put("from outside")
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        assert libc.unshare(CLONE_NEWPID | CLONE_NEWNS) == 0
        os.set_inheritable(tell, True)
        if os.fork() == 0:
            assert os.system(MOUNT["own_proc"]) == 0
            os.execv(sys.executable, [sys.executable, __file__, "open_theirs", str(tell)])
        os.wait()
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as file:
        answer = file.read()
    os.waitpid(child, 0)
    assert answer.startswith("QueueGone: "), answer
    assert "pid namespace" in answer, answer
    assert queue.get(timeout=2) == "from outside"
    queue.unlink()


def open_theirs(tell):
    try:
        answer = qmill.Queue(name="theirs").get(timeout=2)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    os.write(int(tell), answer.encode())
    os._exit(0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
    print("done")
