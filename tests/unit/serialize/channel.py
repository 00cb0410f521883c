"""Two processes that are played, the channel between them, and objects that travel badly."""

from __future__ import annotations

import sys
import threading
import types
from weakref import WeakKeyDictionary, WeakValueDictionary

import cloudpickle.cloudpickle as cp

from qmill.packing import definitions, serialize
from qmill.packing.serialize import Exports, dumps, loads

LARGE = 4 * serialize.OUT_OF_BAND_BYTES


def there_and_back(obj):
    return loads(dumps(obj))


class Process:
    """The state of a process: its `__main__`, the definitions that it knows, its classes.

    `with process:` is to be there.
    """

    def __init__(self, source=""):
        self.main = types.ModuleType("__main__")
        self._attributes = [
            (sys.modules, "__main__", self.main),
            (definitions.__dict__, "_keys", WeakKeyDictionary()),
            (definitions.__dict__, "_known", WeakValueDictionary()),
            (cp.__dict__, "_DYNAMIC_CLASS_TRACKER_BY_CLASS", WeakKeyDictionary()),
            (cp.__dict__, "_DYNAMIC_CLASS_TRACKER_BY_ID", WeakValueDictionary()),
        ]
        self.kept = []
        self.run(source)

    def run(self, source):
        """Run a piece of program in its `__main__`."""
        with self:
            exec(source, self.main.__dict__)

    def __getitem__(self, name):
        return self.main.__dict__[name]

    def __enter__(self):
        self._elsewhere = [(where, name, where[name]) for where, name, _ in self._attributes]
        for where, name, value in self._attributes:
            where[name] = value

    def __exit__(self, *_):
        for where, name, value in self._elsewhere:
            where[name] = value


class Channel:
    """Carries objects from one process to another, and each definition once."""

    def __init__(self, sender, reader):
        self.sender, self.reader = sender, reader
        self.exports = Exports()
        self.definitions = {}
        self.fetched = []

    def keep(self, key, built):
        """An object that a reader builds lives as long as its memory here, not as it is kept."""

    def fetch(self, key):
        self.fetched.append(key)
        return self.definitions[key]

    def pack(self, obj):
        with self.sender:
            packed = dumps(obj, self.exports)
        pending = dict(self.exports.pending)
        assert not self.definitions.keys() & pending.keys(), "a definition crosses once"
        self.definitions |= pending
        self.exports.sent(list(pending))
        return packed

    def send(self, obj):
        packed = self.pack(obj)
        with self.reader:
            return loads(packed, self)


POINT = """
class Point:
    def __init__(self, x):
        self.x = x
    def doubled(self):
        return type(self)(2 * self.x)
    class Inner:
        pass
"""

LOCK = threading.Lock()


class Refused:
    """Says no, and why."""

    def __init__(self, key=0):
        self.key = key

    def __reduce__(self):
        raise ValueError("I stay here")


class Unprintable(Refused):
    def __repr__(self):
        raise RuntimeError("no repr today")
