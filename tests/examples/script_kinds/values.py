# Values of a script: sentinels, containers, what holds a resource of the process.
import array
import asyncio
import collections
import contextvars
import datetime
import decimal
import fractions
import hashlib
import itertools
import logging
import operator
import os
import pathlib
import queue
import random
import re
import socket
import sqlite3
import string
import struct
import subprocess
import sys
import tempfile
import threading
import types
import uuid
import weakref

from .declare import kind


class Missing:
    def __reduce__(self):
        return "MISSING"

    def __bool__(self):
        return False


MISSING = Missing()


def with_sentinel(x, y=MISSING):
    return x if y is MISSING else None


@kind("a sentinel whose __reduce__ is a name", MISSING, lambda r: r[0] == 4 and r[1] is MISSING)
def job_sentinel(given):
    assert given is MISSING
    return with_sentinel(4), MISSING


class Undefined:
    __slots__ = ("label",)

    def __init__(self, label):
        self.label = label

    def __reduce_ex__(self, protocol):
        return self.label

    def __eq__(self, other):
        raise RuntimeError("compared")

    __hash__ = None


UNDEFINED = Undefined("UNDEFINED")
NOTHING = Undefined("NOTHING")


@kind("sentinels with slots and without a hash", UNDEFINED, lambda r: r is NOTHING)
def job_sentinels(given):
    return NOTHING if given is UNDEFINED else None


unset = object()


def with_object(x, y=unset):
    return x if y is unset else None


@kind("object() as a sentinel, in one job", 4, 4)
def job_object_sentinel(x):
    return with_object(x)


verbose = contextvars.ContextVar("verbose", default=1)
level = contextvars.ContextVar("level")


def double_verbose():
    verbose.set(verbose.get() * 2)


@kind("a ContextVar", 4, (2, "verbose", "LookupError"))
def job_context_var(x):
    context = contextvars.copy_context()
    context.run(double_verbose)
    try:
        level.get()
    except LookupError as error:
        return context[verbose], verbose.name, type(error).__name__


class Trouble(Exception):
    pass


class StatusError(Trouble):
    def __init__(self, status, reason):
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


@kind(
    "an exception with two required arguments",
    None,
    lambda r: type(r) is StatusError and (str(r), r.status) == ("404: no", 404),
)
def job_status_error(_):
    return StatusError(404, "no")


class KeywordError(Trouble):
    def __init__(self, *, code):
        super().__init__()
        self.code = code


@kind(
    "an exception with a keyword-only argument, raised",
    4,
    lambda r: type(r) is KeywordError and r.code == 4,
)
def job_raises(x):
    raise KeywordError(code=x)


@kind(
    "an exception group",
    None,
    lambda r: (
        type(r) is ExceptionGroup
        and [*map(type, r.exceptions)] == [StatusError, Trouble]
        and r.exceptions[0].status == 4
    ),
)
def job_exception_group(_):
    return ExceptionGroup("both", [StatusError(4, "no"), Trouble("text")])


class Failures(ExceptionGroup):
    def derive(self, errors):
        return Failures(self.message, errors)


@kind("a subclass of ExceptionGroup", None, lambda r: type(r) is Failures and r.message == "all")
def job_failures(_):
    return Failures("all", [Trouble("text")])


class OsFailure(OSError):
    def __init__(self, path):
        super().__init__(2, "not there", path)
        self.path = path


@kind("a subclass of OSError", None, lambda r: type(r) is OsFailure and r.filename == r.path == "x")
def job_os_failure(_):
    return OsFailure("x")


@kind("an exception with notes and a cause", None, lambda r: r.__notes__ == ["a note"])
def job_notes(_):
    error = Trouble("text")
    error.add_note("a note")
    return error


space = types.SimpleNamespace(x=1, function=lambda x: x + 1)


@kind("SimpleNamespace", 4, 5)
def job_simple_namespace(x):
    return space.function(x)


view = types.MappingProxyType({"a": with_sentinel})


@kind("MappingProxyType", 4, (4, "mappingproxy"))
def job_mapping_proxy(x):
    return view["a"](x), type(view).__name__


def no_items():
    return ["none"]


class Groups(collections.defaultdict):
    pass


groups = collections.defaultdict(no_items)
own_groups = Groups(lambda: 0, a=1)


@kind("defaultdict with a function of the script", "key", (["none"], 0, 1))
def job_defaultdict(key):
    return groups[key], own_groups[key], own_groups["a"]


class Tally(collections.Counter):
    def top(self):
        return self.most_common(1)[0][0]


@kind("a subclass of Counter", Tally("aab"), lambda r: type(r) is Tally and r["b"] == 3)
def job_counter(tally):
    assert tally.top() == "a"
    return tally + Tally("bb") if type(tally + tally) is Tally else Tally(b=3)


class Ordered(collections.OrderedDict):
    label = "ordered"


class Ring(collections.deque):
    def turn(self):
        self.rotate(1)
        return self


@kind(
    "subclasses of OrderedDict and deque",
    Ring([1, 2], maxlen=2),
    lambda r: (type(r[0]), type(r[1])) == (Ordered, Ring) and r[1].maxlen == 2,
)
def job_ordered(ring):
    return Ordered(a=1), ring.turn()


chained = collections.ChainMap({"a": 1}, {"b": with_sentinel})


@kind("ChainMap", 4, 4)
def job_chain_map(x):
    return chained["b"](x)


class Calling(string.Template):
    delimiter = "!"


@kind("a subclass of string.Template", "me", "hello me")
def job_template(name):
    return Calling("hello !name").substitute(name=name)


@kind(
    "dates, decimals, fractions, paths, identifiers",
    datetime.datetime(2026, 1, 1),
    (datetime.timedelta(1), decimal.Decimal("0.1"), fractions.Fraction(1, 3), "b", 4),
)
def job_values(day):
    return (
        day - datetime.datetime(2025, 12, 31),
        decimal.Decimal("0.1"),
        fractions.Fraction(1, 3),
        pathlib.Path("a/b").name,
        uuid.UUID(int=4).int,
    )


class OwnPath(type(pathlib.Path())):
    def shout(self):
        return self.name.upper()


@kind("a subclass of Path", OwnPath("a/b"), lambda r: type(r) is OwnPath and r.shout() == "C")
def job_path(path):
    return path.with_name("c")


class Zone(datetime.tzinfo):
    def utcoffset(self, when):
        return datetime.timedelta(hours=1)

    def dst(self, when):
        return None

    def tzname(self, when):
        return "ours"


@kind(
    "a time zone of the script", Zone(), lambda r: r.tzname() == "ours" and type(r.tzinfo) is Zone
)
def job_zone(zone):
    return datetime.datetime(2026, 1, 1, tzinfo=zone)


log = logging.getLogger("script_kinds")


@kind("a logger", "text", "script_kinds")
def job_logger(text):
    log.debug(text)
    return log.name


class Quiet(logging.Filter):
    def filter(self, record):
        return False


@kind("a logging.Filter of the script", Quiet("name"), lambda r: type(r) is Quiet)
def job_filter(quiet):
    return quiet


random_numbers = random.Random(4)


@kind("random.Random", 4, True)
def job_random(_):
    return 0 <= random_numbers.random() < 1


integers = array.array("i", [1, 2])
header = memoryview(b"abc")


@kind("array.array", 4, 3)
def job_array(_):
    return sum(integers)


@kind("a memoryview", 4, b"abc")
def job_memoryview(_):
    return bytes(header)


made_module = types.ModuleType("made_module")
made_module.double = lambda x: 2 * x
made_module.__doc__ = "Made."


@kind("a module made in the script", 4, (8, "Made."))
def job_made_module(x):
    return made_module.double(x), made_module.__doc__


items = [1, with_sentinel, {"a": (MISSING,)}]


@kind("a list that holds functions and sentinels", 4, (4, True))
def job_list(x):
    return items[1](x), items[2]["a"][0] is MISSING


endless = []
endless.append(endless)


@kind("a list that holds itself", 4, True)
def job_endless(_):
    return endless[0] is endless


letters = iter("abc")
enumerated = enumerate(["a"], 4)


@kind("iterators of builtins", 4, ("a", (4, "a")))
def job_iterators(_):
    return next(iter(letters), "a"), next(enumerated, (4, "a"))


doubles = map(operator.neg, [1, 2])


@kind("a map object", 4, [-1, -2])
def job_map_object(_):
    return list(doubles) or [-1, -2]


class Lines:
    def __init__(self, lines):
        self.lines = iter(lines)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.lines)


@kind("an iterator of the script", Lines(["a", "b"]), ["a", "b"])
def job_own_iterator(lines):
    return list(lines)


environment = os.environ


@kind("os.environ", "PATH", True)
def job_environ(name):
    return name in environment


# -- what holds a resource of this process --------------------------------------------------------

lock = threading.Lock()


@kind("a lock", 4, 4, refused="lock")
def job_lock(x):
    with lock:
        return x


class Guarded:
    guard = threading.RLock()

    def get(self, x):
        with self.guard:
            return x


@kind("a lock as an attribute of a class", 4, 4, refused="guard")
def job_class_lock(x):
    return Guarded().get(x)


class Cache:
    def __init__(self):
        self.own_lock = threading.Lock()

    def get(self, x):
        with self.own_lock:
            return x


cache = Cache()


@kind("a lock as an attribute of an instance", 4, 4, refused="own_lock")
def job_instance_lock(x):
    return cache.get(x)


def locked(function):
    closed_lock = threading.Lock()

    def wrapper(x):
        with closed_lock:
            return function(x)

    return wrapper


@locked
def add_locked(x):
    return x + 1


@kind("a lock in a closure", 4, 5, refused="closed_lock")
def job_closed_lock(x):
    return add_locked(x)


done = threading.Event()


@kind("threading.Event", 4, False, refused="done")
def job_event(x):
    return done.is_set()


waiting = queue.Queue()


@kind("queue.Queue", 4, True, refused="waiting")
def job_queue(x):
    return waiting.empty()


local = threading.local()


@kind("threading.local", 4, 4, refused="local")
def job_local(x):
    local.x = x
    return local.x


class OwnLocal(threading.local):
    x = 0


own_local = OwnLocal()


@kind("a subclass of threading.local", 4, 4, refused="own_local")
def job_own_local(x):
    own_local.x = x
    return own_local.x


out = open(os.devnull, "w")


@kind("a file for writing", "text", "text", refused="out")
def job_file(text):
    print(text, file=out)
    return text


source = open(os.devnull)
binary = open(os.devnull, "rb")


@kind("a file for reading", 4, "", refused="source")
def job_source(_):
    return source.read()


@kind("a binary file", 4, b"", refused="binary")
def job_binary(_):
    return binary.read()


connection = socket.socket()


@kind("a socket", 4, True)
def job_socket(_):
    return connection.fileno() > 0


database = sqlite3.connect(":memory:", check_same_thread=False)


@kind("a database connection", 4, (1,), refused="database")
def job_database(_):
    return database.execute("select 1").fetchone()


def count_from(x):
    while True:
        yield x
        x += 1


running = count_from(4)


@kind("a generator", None, True, refused="running")
def job_generator(_):
    return next(running) >= 4


class Owned:
    pass


owned = Owned()
reference = weakref.ref(owned)
table = weakref.WeakValueDictionary(a=owned)


@kind("weakref.ref", 4, True, refused="reference")
def job_weakref(_):
    return reference() is not None


@kind("WeakValueDictionary", 4, 1, refused="table")
def job_weak_values(_):
    return len(table)


thread = threading.Thread(target=print)


@kind("a thread", 4, False, refused="thread")
def job_thread(_):
    return thread.is_alive()


digest = hashlib.sha256(b"abc")


@kind("a hashlib object", 4, "ba7816bf", refused="digest")
def job_digest(_):
    return digest.hexdigest()[:8]


match = re.match("(a)b", "ab")


@kind("re.Match", 4, "a", refused="match")
def job_match(_):
    return match[1]


layout = struct.Struct("!I")


@kind("struct.Struct", 4, 4)
def job_struct(_):
    return layout.size


folder = tempfile.TemporaryDirectory()


@kind("a temporary folder", 4, True)
def job_folder(_):
    return len(folder.name) > 1


process = subprocess.Popen(["true"])
process.wait()


@kind("subprocess.Popen", 4, 0, refused="process")
def job_process(_):
    return process.returncode


lock_of_tasks = asyncio.Lock()


@kind("asyncio.Lock", 4, False)
def job_asyncio_lock(_):
    return lock_of_tasks.locked()


ids = itertools.count(4)


@kind("itertools.count", 4, True, refused="ids" if sys.version_info >= (3, 14) else None)
def job_count(_):
    return next(ids) >= 4


@kind("a frame", 4, True, refused="frame")
def job_frame(_):
    return frame is not None


frame = sys._getframe()
