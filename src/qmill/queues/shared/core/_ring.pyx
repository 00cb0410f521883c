# cython: language_level=3, freethreading_compatible=True, embedsignature=True
"""The binding of ring.c: a queue of Python objects in shared memory.

`Ring` has the methods that are called for each message; the others are in
`qmill.queues.shared.queue`. The functions that do its work are in files which are included here, as
the compiler then sees all of them at once, and a call between them costs little:

    _ring.pxd     declares the functions of C
    _codec.pxi    declares the codec, makes classes known to it, loads `qmill.packing`
    _waiting.pxi  waits for locks and events; errors
    _putting.pxi  packs and puts
    _taking.pxi   takes and rebuilds
    _aside.pxi    messages that were set aside
    _loops.pxi    iterators

The first byte of a message is its format:

    's' + UTF-8      a str that is not small  'b' + bytes      bytes that are not small
    0x80...          a plain pickle           below 4          formats of `qmill.packing.serialize`
    'm' n ... body   a message of `qmill.Q`: n bytes of kind and order, and the data as a message
    all else         a small object in the format of `_codec.h`

No Python code runs while a lock of the ring is held: objects are packed before, and unpacked after.
"""

# These are imported for several of the files; each of them imports the rest of its names.
import copyreg
import os
from _weakref import _remove_dead_weakref
from weakref import ref

cimport cython
from cpython.bytearray cimport PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ....errors import Empty, Full, SerializationError, ShutDown
from ....system import pickling
from ...api import END
from ...checks import check_items, check_max_items, check_wait
from ...leases import acknowledge, task_done

include "_codec.pxi"
include "_waiting.pxi"
include "_putting.pxi"
include "_taking.pxi"
include "_aside.pxi"
include "_loops.pxi"


cdef class Ring:
    """One queue: a file that is mapped here. It never waits while it holds a lock.

    Attributes:
        uuid: Names the queue, 16 bytes.
    """

    cdef q_queue *q
    cdef int fd  # a descriptor that is not the queue's yet; else -1
    cdef codec *codec
    cdef readonly bytes uuid
    cdef public object name  # of a queue with a name
    cdef public object hold  # of a queue with a name: the `named_file.Hold` that keeps it
    cdef set exported
    cdef object exports, definitions
    cdef dict classes
    cdef readonly list left  # see queues/leases.py
    cdef object __weakref__

    def __cinit__(self):
        self.q = NULL
        self.fd = -1
        self.definitions = {}
        self.classes = {}
        self.codec = NULL
        self.left = []

    @staticmethod
    def create(path, uint64_t maxsize, bytes uuid):
        """Make a queue in a new file: at a path, or without a name if that is None."""
        cdef Ring ring = Ring()
        cdef const uint8_t *name = <const uint8_t *>PyBytes_AS_STRING(uuid)
        cdef q_status status
        if path is None:
            ring.fd = os.memfd_create(f"qmill-{uuid.hex()}", os.MFD_CLOEXEC)
        else:
            ring.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with nogil:
            status = q_create(ring.fd, maxsize, name, &ring.q)
        ring._begin(status)
        return ring

    @staticmethod
    def open(path, int flags, bytes uuid, bint alone=False):
        """Map the queue in the file of a path: this one, or any if `uuid` is None.

        If it is `alone`, no process has the file open.
        """
        cdef Ring ring = Ring()
        ring.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | flags)
        ring._attach(uuid, alone, False)
        return ring

    @staticmethod
    def attach(int fd, bytes uuid, bint was_sent=False):
        """Map the queue in a file, whose descriptor is closed if it cannot be.

        If it `was_sent`, a relative has sent it.
        """
        cdef Ring ring = Ring()
        ring.fd = fd
        ring._attach(uuid, False, was_sent)
        return ring

    cdef int _attach(self, bytes uuid, bint alone, bint was_sent) except -1:
        cdef const uint8_t *name = NULL
        cdef q_status status
        if uuid is not None:
            name = <const uint8_t *>PyBytes_AS_STRING(uuid)
        with nogil:
            if alone:
                status = q_adopt(self.fd, &self.q)
            elif was_sent:
                status = q_receive(self.fd, &self.q)
            else:
                status = q_attach(self.fd, name, &self.q)
        return self._begin(status)

    cdef int _begin(self, q_status status) except -1:
        if status != Q_OK:
            self.q = NULL
            _fail(status)
        self.fd = -1  # the queue's now
        self.uuid = q_uuid(self.q)[:16]
        self.exported = set()
        resolve = _Resolver(self, self.classes)
        self.codec = codec_new(
            self.exported, copyreg.dispatch_table, self.classes, resolve
        )
        return 0

    def __dealloc__(self):
        codec_free(self.codec)
        if self.fd >= 0:
            close(self.fd)
        if self.q != NULL:
            with nogil:
                q_leave(self.q, 0, 1)
                q_detach(self.q)

    def __reduce__(self):
        # A method such as `put` is pickled with its ring; how one is found is not known here.
        from ..rings import reduce_ring

        return reduce_ring(self)

    def fileno(self):
        """Return the descriptor of the queue's file."""
        return q_fd(self.q)

    @property
    def maxsize(self):
        """The most messages that may wait; 0 is no limit."""
        return q_maxsize(self.q)

    def set_maxsize(self, uint64_t maxsize):
        """Set how many messages may wait, for every process."""
        cdef Tries tries = UNTRIED
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_set_maxsize(self.q, maxsize, 1)
        _is_done(tries.status)

    @property
    def max_idle_memory(self):
        """The most bytes that are kept for the next messages; None for the default."""
        cdef uint64_t size = q_max_kept(self.q)
        return None if size == Q_CHOSEN else size

    def set_max_idle_memory(self, told):
        """Set the most bytes that are kept, for every process; None for the default."""
        cdef Tries tries = UNTRIED
        cdef uint64_t size = Q_CHOSEN if told is None else told
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_set_max_kept(self.q, size, 1)
        _is_done(tries.status)

    def trim(self):
        """See `Queue.trim`."""
        cdef Tries tries = UNTRIED
        cdef uint64_t given = 0, total = 0
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_trim(self.q, &given, 1)
            total += given
        _is_done(tries.status)
        return total

    @property
    def is_shutdown(self):
        """Whether `shutdown` has been called, by any process."""
        return bool(q_is_shut(self.q))

    # -- putting -----------------------------------------------------------------------------------

    def put(self, obj, bint block=True, timeout=None):
        """See `Queue.put`."""
        cdef uint8_t small[SMALL_BYTES]
        cdef uint8_t *after
        if timeout is not None or not block:
            timeout = check_wait(block, timeout)
        if self.left:
            acknowledge(self.left)
        after = _write_int(obj, small)
        if after == NULL:
            _put(self, obj, small, small, timeout)
        elif q_put(self.q, small, after - small, 0) != Q_OK:
            _put_bytes(self, small, after - small, timeout)

    def put_nowait(self, obj):
        """See `Queue.put_nowait`."""
        self.put(obj, False)

    def put_many(self, items, bint block=True, timeout=None):
        """See `Queue.put_many`."""
        wait = check_wait(block, timeout)
        cdef list objects = list(check_items(items))
        if self.left:
            acknowledge(self.left)
        if objects:
            return _put_many(self, objects, wait)
        if q_is_shut(self.q):
            raise ShutDown
        return 0

    # -- getting -----------------------------------------------------------------------------------

    def get(self, bint block=True, timeout=None):
        """See `Queue.get`."""
        cdef q_item item
        cdef size_t number = 0
        cdef int64_t value
        cdef const uint8_t *data
        if timeout is not None or not block:
            timeout = check_wait(block, timeout)
        if self.left:
            acknowledge(self.left)
        if q_take(self.q, 0, &item, 1, &number, 0) != Q_OK:
            _take(self, 0, &item, 1, &number, timeout)
            if not number:
                raise Empty
        if item.kind == Q_END:
            return END
        data = <const uint8_t *>item.data
        if codec_read_int(data, data + item.size, &value):
            _finish(self, &item, False)
            return codec_new_int(value)
        return _unpack_and_finish(self, &item)

    def get_nowait(self):
        """See `Queue.get_nowait`."""
        return self.get(False)

    def get_many(self, max_items, bint block=True, timeout=None):
        """See `Queue.get_many`."""
        cdef size_t limit
        wait = check_wait(block, timeout)
        limit = min(check_max_items(max_items), max(1, q_size_hint(self.q)))
        if self.left:
            acknowledge(self.left)
        return _get_many(self, limit, wait)

    def peek(self, bint block=True, timeout=None):
        """See `Queue.peek`."""
        cdef bytearray copy = bytearray(256)
        cdef char *into
        cdef uint64_t size = 0, capacity
        cdef uint32_t kind = 0, sequence
        cdef q_status status
        cdef double deadline = _deadline(check_wait(block, timeout))
        cdef int tries = 0
        while True:
            into = copy
            capacity = len(copy)
            sequence = q_announce(self.q, Q_ITEMS)
            with nogil:
                status = q_peek(self.q, into, capacity, &size, &kind, 1)
            if status != Q_OK:
                if _is_late(self, status, Q_ITEMS, sequence, deadline, &tries):
                    raise Empty
            elif size <= capacity:
                return END if kind == Q_END else _unpack_copy(self, into, size)
            else:
                copy = bytearray(size)

    # -- for Q -------------------------------------------------------------------------------------

    def new_reader(self):
        """Return the number of a new reader."""
        cdef uint32_t reader = 0
        cdef Tries tries = UNTRIED
        self.settle()  # messages of dead readers are taken before new ones
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_reader_new(self.q, &reader, 1)
                if tries.status == Q_NO_SLOT:
                    q_sweep(self.q, 0, 1)
                    tries.status = q_reader_new(self.q, &reader, 1)
        _is_done(tries.status)
        return reader

    def take(self, uint32_t reader):
        """Take a message under a lease: the lease and the object, or (0, END)."""
        cdef q_item item
        cdef size_t number = 0
        if self.left:
            acknowledge(self.left)
        _take(self, reader, &item, 1, &number, None)
        if item.kind == Q_END:
            return 0, END
        try:
            return item.record, _unpack(self, &item)
        except BaseException as error:
            if not isinstance(error, Exception) or _goes_back(error):
                self.lease_give_back(reader, item.record)
            else:
                self.lease_done(reader, item.record)
            raise

    def lease_done(self, uint32_t reader, uint64_t lease, bint surely=True):
        """End a lease: its message is finished.

        If not `surely`, give up when a stopped process holds the lock for long.
        """
        cdef Tries tries = UNTRIED
        while _try_again(self, &tries, surely):
            with nogil:
                tries.status = q_lease_done(self.q, reader, lease, 1)
        _is_done(tries.status)

    def lease_give_back(self, uint32_t reader, uint64_t lease):
        """End a lease: its message waits again."""
        cdef Tries tries = UNTRIED
        while _try_again(self, &tries, False):
            with nogil:
                tries.status = q_lease_give_back(self.q, reader, lease, 1)

    def lease_release(self, uint32_t reader, uint64_t lease, double delay):
        """End a lease: its message, which the loop has had, waits again; False if there is none."""
        cdef Tries tries = UNTRIED
        cdef uint64_t delay_ms = <uint64_t>(delay * 1000 + 0.999)
        while _try_again(self, &tries, False):
            with nogil:
                tries.status = q_release(self.q, reader, lease, delay_ms, 1)
        return tries.status == Q_BUSY or _is_done(tries.status)  # as in close_reader

    def close_reader(self, uint32_t reader):
        """End a reader; messages that it still holds go back, as if they had not been taken.

        If a stopped process holds the lock for long, they stay leased until this process ends.
        """
        cdef Tries tries = UNTRIED
        while _try_again(self, &tries, False):
            with nogil:
                tries.status = q_reader_close(self.q, reader, 1)

    def end(self, bytes tag):
        """Put an END."""
        cdef Tries tries = UNTRIED
        cdef const char *data = PyBytes_AS_STRING(tag)
        cdef uint32_t size = len(tag)
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_end(self.q, data, size, 1)
        _is_done(tries.status)

    def withdraw_ends(self, bytes tag):
        """Take back the unread ENDs of this tag, and return how many."""
        cdef Tries tries = UNTRIED
        cdef uint64_t number = 0
        cdef const char *data = PyBytes_AS_STRING(tag)
        cdef uint32_t size = len(tag)
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_withdraw(self.q, data, size, &number, 1)
        _is_done(tries.status)
        return number

    def set_aside(self, bint only_new):
        """List the messages that were set aside, each with its number for `requeue`.

        If `only_new`, list those that no such call has returned before.
        """
        cdef q_aside found
        cdef list messages = []
        cdef bytes copy
        while (copy := _look_aside(
            self, 0 if only_new else len(messages), Q_RAISED if only_new else Q_ANY, &found
        )) is not None:
            messages.append((_unpack_copy(self, copy, len(copy)), found.record))
        return messages

    def requeue(self, uint64_t record):
        """Put back a message that was set aside; return whether it still was."""
        cdef Tries tries = UNTRIED
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_requeue(self.q, record, 1)
        return _is_done(tries.status)

    # -- bytes -------------------------------------------------------------------------------------

    def put_parts(self, list parts):
        """Put bytes as they are: these parts, one after another."""
        _put_parts(self, parts, 0.0)

    def take_bytes(self):
        """Take, without waiting, a message of `put_parts`, in this process's own memory."""
        cdef q_item item
        cdef size_t number = 0
        cdef bytearray copy
        cdef Block block
        _take(self, 0, &item, 1, &number, 0.0)
        if not number:
            raise Empty
        if item.kind == Q_BLOCK:
            block = _block(self, &item, 0)
            _finish(self, &item, False)
            q_lend(self.q, &item, &block.lent)
            return memoryview(block)
        copy = PyByteArray_FromStringAndSize(<const char *>item.data, item.size)
        _finish(self, &item, False)
        return memoryview(copy)

    # -- finishing and counting --------------------------------------------------------------------

    def task_done(self):
        """See `Queue.task_done`."""
        cdef Tries tries = UNTRIED
        if task_done(self.left):
            return
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_task_done(self.q, 1)
        _is_done(tries.status)

    def join(self):
        """See `Queue.join`."""
        cdef uint32_t sequence
        if self.left:  # else it would wait for a message that this thread holds
            acknowledge(self.left)
        while True:
            sequence = q_announce(self.q, Q_IDLE)
            if not q_unfinished(self.q):
                return
            _sleep(self, Q_IDLE, sequence, INFINITY)

    def shutdown(self, bint immediate=False):
        """See `Queue.shutdown`."""
        cdef Tries tries = UNTRIED
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_shutdown(self.q, immediate, 1)
        _is_done(tries.status)

    cdef int _count(self, q_counts *counts) except -1:
        cdef Tries tries = UNTRIED
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_statistics(self.q, counts, 1)
        return _is_done(tries.status)

    def qsize(self):
        """See `Queue.qsize`; messages of a dead process count once the death has been noticed."""
        cdef q_counts c
        self._count(&c)
        return c.size

    def statistics(self):
        """See `Queue.statistics`."""
        cdef q_counts c
        self.settle()
        self._count(&c)
        from ...statistics import Statistics

        return Statistics(
            c.size, c.leased, c.unfinished, c.put, c.taken, c.done, c.lost, c.redelivered,
            c.poisoned, c.maxsize,
        )

    def full(self):
        """See `Queue.full`."""
        return bool(q_full(self.q))

    def settle(self):
        """Wait until every event so far, such as the death of a reader, is counted."""
        cdef Tries tries = UNTRIED
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_sweep(self.q, 0, 1)
        _tell_aside(self)

    def size_hint(self):
        """Return about how many messages wait, without a lock or a slot of this process."""
        return q_size_hint(self.q)

    def generation(self):
        """Return a number that is another one in a forked child."""
        return q_fork_generation()

    def new_pickle(self):
        """Return the number of a new pickle of the queue."""
        if packs_quickly:
            raise SerializationError("a message with a queue in it is packed with care")
        return q_pickle_new(self.q)

    def pickle_loaded(self, uint64_t pickle):
        """Note that a pickle was loaded, and that this process has the queue."""
        q_pickle_loaded(self.q, pickle)

    def not_loaded(self, list pickles):
        """Return those of some pickles that have not been loaded yet."""
        return [pickle for pickle in pickles if not q_pickle_is_loaded(self.q, pickle)]

    def leave(self):
        """End this process's part: messages that it has taken count as done."""
        cdef q_status status
        cdef int i
        for i in range(LEAVE_TRIES):
            with nogil:
                status = q_leave(self.q, 1, 1)
            if status != Q_BUSY:
                break

    # -- definitions -------------------------------------------------------------------------------

    def define(self, bytes key, data):
        """Give the queue a definition that messages will refer to."""
        cdef Tries tries = UNTRIED
        cdef bytes packed = bytes(data)
        cdef const char *name = PyBytes_AS_STRING(key)
        cdef const char *body = PyBytes_AS_STRING(packed)
        cdef uint32_t key_size = len(key)
        cdef uint64_t size = len(packed)
        while _try_again(self, &tries):
            with nogil:
                tries.status = q_define(self.q, name, key_size, body, size, 1)
        _is_done(tries.status)

    def fetch(self, bytes key):
        """Return a definition, for `serialize.loads`; KeyError if there is none."""
        cdef const void *data
        cdef uint64_t size
        if not _is_done(q_fetch(self.q, PyBytes_AS_STRING(key), len(key), &data, &size)):
            raise KeyError(key)
        return PyBytes_FromStringAndSize(<const char *>data, size)

    def keep(self, bytes key, built):
        """Keep an object that `serialize.loads` has built, as long as this lives."""
        self.definitions[key] = built


cdef class _Resolver:
    """Finds the classes of the instances that a ring's codec reads, and keeps them."""

    cdef object ring
    cdef dict classes

    def __init__(self, ring, classes):
        self.ring = ref(ring)  # weak: else the ring and this would keep each other alive
        self.classes = classes

    def __call__(self, name):
        _load_packing()
        found = definitions.class_of(name, self.ring())
        self.classes[name] = found
        return found[0]


def forgetting(dict known, number):
    """Return a callback for a weak reference in a dict that removes it from the dict.

    No signal handler runs in it: the handler's exception would be lost.
    """

    remove = _remove_dead_weakref  # a name of the module may be gone when the program ends

    def forget(reference):
        remove(known, number)

    return forget
