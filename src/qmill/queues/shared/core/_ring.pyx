# cython: language_level=3, freethreading_compatible=True, embedsignature=True
"""The binding of ring.c: a queue of Python objects in shared memory.

`Ring` has the methods that are called for each message; the others are in `qmill.queues.shared.queue`.
The first byte of a message is its format:

    's' + UTF-8      a str that is not small  'b' + bytes      bytes that are not small
    0x80...          a plain pickle           below 4          the formats of `qmill.packing.serialize`
    'm' n ... body   a message of `qmill.Q`: n bytes of kind and order, and the data as a message
    all else         a small object in the format of `_codec.h`

No Python code runs while a lock of the ring is held: objects are packed before, and unpacked after.
"""

import copyreg
import errno
import os
from functools import update_wrapper
from sys import is_finalizing
from _weakref import _remove_dead_weakref
from weakref import ref

from cpython.buffer cimport (
    PyBUF_READ, PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.mem cimport PyMem_Malloc, PyMem_Free
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy

cimport cython

from ....packing import definitions, function_globals, serialize, standard_library
from ....packing.explain import describe, shown
from ....system import pickling
from ....system.interrupts import is_interrupt
from ....errors import Empty, Full, QueueGone, SerializationError, ShutDown
from ...api import END, Statistics
from ...checks import check_items, check_max_items, check_wait
from ...leases import NOTHING, acknowledge, begin, leave, task_done

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        pass
    bint PyObject_TypeCheck(object, PyTypeObject *)
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1
    unsigned long PyThread_get_thread_ident()

cdef extern from "_leaving.h":
    int left_by_exception
    void tell_leaving(PyTypeObject *messages, PyTypeObject *loop)

cdef extern from "_codec.h":
    ctypedef struct codec:
        PyTypeObject *missing
    codec *codec_new(object, object, object, object) except NULL
    void codec_free(codec *)
    uint8_t *codec_write(codec *, uint8_t *, uint8_t *, object)
    int codec_learn(codec *, PyTypeObject *, object)
    object codec_read(codec *, const uint8_t **, const uint8_t *)
    uint8_t *codec_write_int(uint8_t *, int64_t) nogil
    object codec_new_int(int64_t)
    bint codec_read_int(const uint8_t *, const uint8_t *, int64_t *) nogil
    object codec_make(PyTypeObject *, object, object, object, object)

cdef extern from "time.h" nogil:
    ctypedef int clockid_t
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(clockid_t, timespec *)
    clockid_t CLOCK_MONOTONIC

cdef extern from "ring.h" nogil:
    ctypedef enum q_status:
        Q_OK, Q_EMPTY, Q_FULL, Q_SHUT, Q_NOT_YET, Q_BUSY, Q_NO_MEMORY, Q_NO_SLOT, Q_CORRUPT
        Q_FOREIGN, Q_TOO_OFTEN, Q_SYSTEM
    ctypedef enum q_event:
        Q_ITEMS, Q_SPACE, Q_IDLE
    ctypedef enum q_kind:
        Q_INLINE, Q_BLOCK, Q_END
    ctypedef struct q_queue:
        pass
    ctypedef struct q_item:
        uint32_t kind, owner
        uint64_t record, block
        const void *data
        uint64_t size
    ctypedef struct q_counts:
        uint64_t size, leased, unfinished, put, taken, done, lost, redelivered, poisoned, maxsize
    ctypedef struct q_message:
        const void *data
        uint64_t size, block
        const void *head
        uint64_t head_size
    void q_block_write(q_queue *, uint64_t, uint64_t, const void *, uint64_t)
    q_status q_create(int, uint64_t, const uint8_t *, q_queue **)
    q_status q_attach(int, const uint8_t *, q_queue **)
    q_status q_receive(int, q_queue **)
    q_status q_adopt(int, q_queue **)
    void q_detach(q_queue *)
    int q_fd(const q_queue *)
    const uint8_t *q_uuid(const q_queue *)
    uint64_t q_maxsize(const q_queue *)
    q_status q_set_maxsize(q_queue *, uint64_t, int)
    uint32_t q_fork_generation()
    ctypedef enum q_limit:
        Q_NO_LIMIT, Q_MAPPING, Q_FILE, Q_GROUP, Q_SEGMENTS
    ctypedef struct q_refusal:
        q_limit limit
        int error
        uint64_t wanted, used, most
    q_refusal q_refused()
    ctypedef struct q_group:
        const char *most
        const char *used
        const char *details
    int q_watch_groups(const q_group *, size_t)
    uint64_t Q_CHOSEN
    uint64_t q_max_kept(const q_queue *)
    q_status q_set_max_kept(q_queue *, uint64_t, int)
    q_status q_trim(q_queue *, uint64_t *, int)
    q_status q_put(q_queue *, const void *, uint64_t, int)
    q_status q_put_many(q_queue *, const q_message *, size_t, size_t *, int)
    uint64_t q_inline_max()
    q_status q_block_new(q_queue *, uint64_t, uint64_t *, void **, int)
    q_status q_block_free(q_queue *, uint64_t, int)
    ctypedef struct q_lent:
        uint64_t block
    void q_lend(q_queue *, const q_item *, q_lent *)
    void q_lent_back(q_lent *)
    q_status q_take(q_queue *, uint32_t, q_item *, size_t, size_t *, int)
    q_status q_done(q_queue *, const q_item *, int)
    size_t q_done_many(q_queue *, const q_item *, size_t)
    q_status q_give_back(q_queue *, const q_item *, int)
    q_status q_peek(q_queue *, void *, uint64_t, uint64_t *, uint32_t *, int)
    q_status q_reader_new(q_queue *, uint32_t *, int)
    q_status q_reader_waits(q_queue *, uint32_t, int)
    q_status q_lease_done(q_queue *, uint32_t, uint64_t, int)
    q_status q_next(q_queue *, uint32_t, uint64_t, q_item *, int)
    q_status q_lease_give_back(q_queue *, uint32_t, uint64_t, int)
    q_status q_release(q_queue *, uint32_t, uint64_t, uint64_t, int)
    q_status q_reader_close(q_queue *, uint32_t, int)
    q_status q_end(q_queue *, const void *, uint32_t, int)
    q_status q_withdraw(q_queue *, const void *, uint32_t, uint64_t *, int)
    q_status q_task_done(q_queue *, int)
    q_status q_shutdown(q_queue *, int, int)
    q_status q_statistics(q_queue *, q_counts *, int)
    uint64_t q_unfinished(const q_queue *)
    int q_full(q_queue *)
    int q_is_shut(const q_queue *)
    ctypedef enum q_mark:
        Q_ANY, Q_RAISED, Q_LOGGED
    ctypedef struct q_aside:
        void *into
        uint64_t capacity, size, record, deaths
    q_status q_look_aside(q_queue *, uint64_t, q_mark, q_aside *, int)
    q_status q_requeue(q_queue *, uint64_t, int)
    uint64_t q_newly_aside(q_queue *)
    q_status q_define(q_queue *, const void *, uint32_t, const void *, uint64_t, int)
    q_status q_fetch(q_queue *, const void *, uint32_t, const void **, uint64_t *)
    uint32_t q_announce(q_queue *, q_event)
    void q_sleep(q_queue *, q_event, uint32_t, int64_t)
    uint32_t q_holder(const q_queue *, unsigned)
    int q_watch(q_queue *, q_event)
    uint64_t q_size_hint(const q_queue *)
    uint64_t q_pickle_new(q_queue *)
    void q_pickle_loaded(q_queue *, uint64_t)
    int q_pickle_is_loaded(const q_queue *, uint64_t)
    q_status q_sweep(q_queue *, int, int)
    q_status q_leave(q_queue *, int, int)

cdef extern from "unistd.h":
    int close(int)

cdef extern from *:
    """
    static _Thread_local int packs_quickly;
    """
    int packs_quickly  # whether this thread is in the fast path of `Ring._pack`

cdef extern from *:
    """
    static int enter_once(int *busy) { return !__atomic_exchange_n(busy, 1, __ATOMIC_ACQUIRE); }
    static void leave_again(int *busy) { __atomic_store_n(busy, 0, __ATOMIC_RELEASE); }
    """
    bint enter_once(int *)
    void leave_again(int *)

cdef double SLICE_S = 0.1
cdef enum:
    LOOKS = 4  # tries while other callers take the message or room first; then the caller sleeps
cdef int LOGGED_AFTER_TRIES = 10  # of SLICE_S each
cdef int LEAVE_TRIES = 10  # after these, a sweep of another process does it when this one has ended

cdef enum:
    SMALL_BYTES = 4096  # larger objects are pickled, or copied by themselves
    PREFIX_BYTES = 256
    PLAIN_BYTES = 9

cdef const char *PLAIN_PREFIX = b"m\x09a\0\0\0\0001\0"  # of a message without kind and order

cdef object _pickle = pickling.dumps
cdef object _unpickle = pickling.loads


cdef double _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef str _told_of(q_refusal refusal):
    """Return a text that names the limit that was reached, and a remedy."""
    cdef uint64_t mib = 1 << 20
    needed = f"{refusal.wanted:,} bytes more for this queue"
    error = os.strerror(refusal.error)
    if refusal.limit == Q_GROUP:
        return (
            f"{needed} would leave too little of this process's memory control group, which uses "
            f"{refusal.used // mib:,} of {refusal.most // mib:,} MiB: take messages out, give the "
            "queue a maxsize, or the group more memory"
        )
    if refusal.limit == Q_MAPPING:
        return (
            f"this process may not map {refusal.wanted:,} bytes of the queue's memory ({error}): "
            "raise the limit of its address space (ulimit -v), or close other queues"
        )
    if refusal.limit == Q_FILE and refusal.error == errno.EFBIG:
        return f"{needed} make its file larger than this process's limit of files: raise ulimit -f"
    if refusal.limit == Q_FILE and refusal.error:
        return (
            f"the system has no memory, or the file system no room, for {needed} ({error}): take "
            "messages out, or give the queue a maxsize"
        )
    if refusal.limit == Q_SEGMENTS:
        return f"a message of {refusal.wanted:,} bytes is too large: the most are 512 GiB"
    return "the system has no memory for the queue"


def watch_groups(list groups):
    """Have the limits of control groups checked before memory is reserved.

    Args:
        groups: For each group the paths of three files: its limit, the memory in use, and details.
    """
    cdef q_group *given = <q_group *>PyMem_Malloc((len(groups) or 1) * sizeof(q_group))
    if given == NULL:
        raise MemoryError
    try:
        for i, (most, used, details) in enumerate(groups):
            given[i].most = PyBytes_AS_STRING(most)
            given[i].used = PyBytes_AS_STRING(used)
            given[i].details = PyBytes_AS_STRING(details)
        if q_watch_groups(given, len(groups)):
            raise MemoryError
    finally:
        PyMem_Free(given)


cdef int _fail(q_status status) except -1:
    """Raise the error of a status, other than those for which a caller waits."""
    if status == Q_SHUT:
        raise ShutDown
    cdef q_refusal refusal = q_refused()
    if status == Q_NO_MEMORY or (status == Q_CORRUPT and refusal.limit == Q_MAPPING):
        raise MemoryError(_told_of(refusal))
    if status == Q_NO_SLOT:
        raise OSError(
            "this queue is used by 16,383 processes and readers, and takes no more until one of "
            "them ends, closes the queue, or ends its loop over messages"
        )
    if status == Q_TOO_OFTEN:
        raise ValueError("task_done() called too many times: nothing is unfinished")
    if status == Q_FOREIGN:
        raise QueueGone("the file is not this queue (another version, user or pid namespace?)")
    if status == Q_CORRUPT:
        raise RuntimeError("the queue's shared memory is damaged: another program has written to it")
    raise OSError(f"the queue's shared memory failed with status {int(status)}")


cdef object _told_if_stopped(uint32_t thread):
    """Return a text about a thread that holds a lock if a signal has stopped it, else None."""
    try:
        with open(f"/proc/{thread}/status", errors="replace") as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except OSError:  # it has ended, or no file can be opened now
        return None
    if fields["State"][0] not in "Tt":
        return None
    return (
        f"process {fields['Tgid']} ({fields['Name']}) holds a lock of this queue and is stopped, "
        "by SIGSTOP or a debugger: it has to go on, or to be killed"
    )


@cython.no_gc_clear  # it needs its ring until it is freed; other objects of a cycle break the cycle
cdef class Block:
    """The memory of one large message; it is given back when this object is freed."""

    cdef Ring ring
    cdef q_lent lent  # set once its message is done
    cdef void *data
    cdef uint64_t before  # bytes of its message that are not part of it
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)

    def __releasebuffer__(self, Py_buffer *view):
        pass

    def __dealloc__(self):
        if self.lent.block:
            with nogil:  # if that fails now, the block is freed when this process has ended
                q_lent_back(&self.lent)


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
        self.exports = serialize.Exports()
        resolve = _Resolver(self, self.classes)
        self.codec = codec_new(
            self.exports.done, copyreg.dispatch_table, self.classes, resolve
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
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        while status == Q_BUSY:
            with nogil:
                status = q_set_maxsize(self.q, maxsize, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK:
            _fail(status)

    @property
    def max_idle_memory(self):
        """The most bytes that are kept for the next messages; None for the default."""
        cdef uint64_t size = q_max_kept(self.q)
        return None if size == Q_CHOSEN else size

    def set_max_idle_memory(self, told):
        """Set the most bytes that are kept, for every process; None for the default."""
        cdef q_status status = Q_BUSY
        cdef uint64_t size = Q_CHOSEN if told is None else told
        cdef int tries = 0
        while status == Q_BUSY:
            with nogil:
                status = q_set_max_kept(self.q, size, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK:
            _fail(status)

    def trim(self):
        """See `Queue.trim`."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        cdef uint64_t given = 0, total = 0
        while status == Q_BUSY:
            with nogil:
                status = q_trim(self.q, &given, 1)
            total += given
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK:
            _fail(status)
        return total

    @property
    def is_shutdown(self):
        """Whether `shutdown` has been called, by any process."""
        return bool(q_is_shut(self.q))

    # -- waiting -----------------------------------------------------------------------------------

    cdef int _sleep(self, q_event event, uint32_t sequence, double deadline) except -1:
        """Sleep until an event, a signal or the end of a slice; settle messages of dead processes."""
        cdef double left = SLICE_S
        cdef int64_t nanoseconds
        if deadline >= 0:
            left = deadline - _now()
            if left > SLICE_S:
                left = SLICE_S
        if left > 0:
            PyErr_CheckSignals()  # a signal may have come since the last check
            nanoseconds = <int64_t>(left * 1e9)
            with nogil:
                q_sleep(self.q, event, sequence, nanoseconds)
                q_sweep(self.q, 1, 1)
            self._tell_aside()
        PyErr_CheckSignals()
        return 0

    cdef object _held_up(self, int *tries):
        """Run signal handlers while another thread has a lock; return a text if that is stopped."""
        cdef unsigned i
        PyErr_CheckSignals()
        tries[0] += 1
        for i in range(3):
            holder = q_holder(self.q, i)
            if holder and (told := _told_if_stopped(holder)) is not None:
                if tries[0] == LOGGED_AFTER_TRIES:
                    import logging

                    logging.getLogger("qmill").warning("%s", told)
                return told
        return None

    cdef bint _watch(self, q_event event) noexcept:
        """Poll for a few microseconds; return whether the message or room may be there now."""
        cdef bint seen
        with nogil:
            seen = q_watch(self.q, event)
        return seen

    # -- putting -----------------------------------------------------------------------------------

    def put(self, obj, bint block=True, timeout=None):
        """See `Queue.put`."""
        cdef uint8_t small[SMALL_BYTES]
        cdef uint8_t *at
        cdef long long number
        cdef int overflow
        if timeout is not None or not block:
            timeout = check_wait(block, timeout)
        if self.left:
            acknowledge(self.left)
        if type(obj) is int:
            number = PyLong_AsLongLongAndOverflow(obj, &overflow)
            if not overflow:
                at = codec_write_int(small, number)
                if q_put(self.q, small, at - small, 0) != Q_OK:
                    self._put_bytes(small, at - small, timeout)
                return
        self._put(obj, small, small, timeout)

    cdef bint _put_message(self, data, kind, order, bint block, timeout, cls) except -1:
        """Put a message of `qmill.Q`; False for arguments that the slow path has to handle."""
        cdef uint8_t small[SMALL_BYTES]
        cdef uint8_t *at
        if (
            type(kind) is not str
            or type(order) is not int
            or PyObject_TypeCheck(data, <PyTypeObject *>cls)
            or (kind and <str>kind == "END")
        ):
            return False
        if timeout is not None or not block:
            timeout = check_wait(block, timeout)
        if self.left:
            acknowledge(self.left)
        if not kind and order == 0:
            memcpy(small, PLAIN_PREFIX, PLAIN_BYTES)
            at = small + PLAIN_BYTES
        else:
            at = codec_write(self.codec, &small[2], &small[PREFIX_BYTES], kind)
            if at != NULL:
                at = codec_write(self.codec, at, &small[PREFIX_BYTES], order)
            if at == NULL:
                return False
            small[0] = 109
            small[1] = at - small
        self._put(data, small, at, timeout)
        return True

    cdef uint8_t *_encode(self, object obj, uint8_t *at, uint8_t *end) except? NULL:
        """Write an object with the codec; NULL if the codec refuses it."""
        cdef uint8_t *after = codec_write(self.codec, at, end, obj)
        cdef PyTypeObject *missing
        cdef int tries = 0
        while after == NULL and self.codec.missing != NULL and tries < 8:
            missing = self.codec.missing
            cls = <object>missing
            if not codec_learn(self.codec, missing, definitions.plan_of(cls)):
                break
            after = codec_write(self.codec, at, end, obj)
            tries += 1
        return after

    cdef int _put(self, object obj, uint8_t *small, uint8_t *at, object wait) except -1:
        """Put an object as a message that begins with the bytes of `small` before `at`."""
        cdef const char *text
        cdef Py_ssize_t size
        cdef uint8_t *after = self._encode(obj, at, small + SMALL_BYTES)
        cdef list parts
        if after != NULL:
            return self._put_bytes(small, after - small, wait)
        cls = type(obj)
        if cls is bytes:
            return self._put_tagged(98, PyBytes_AS_STRING(obj), len(obj), small, at - small, wait)
        if cls is str and (text := self._utf8(obj, &size)) != NULL:
            return self._put_tagged(115, text, size, small, at - small, wait)
        parts = self._pack(obj)
        if at != small:
            parts.insert(0, self._padded(parts, small, at - small))
        return self._put_parts(parts, wait)

    cdef bytes _padded(self, list parts, uint8_t *prefix, Py_ssize_t size):
        """Return a prefix for some parts, padded so that the buffers among them stay aligned."""
        cdef bytes whole = PyBytes_FromStringAndSize(<char *>prefix, size)
        if len(parts) > 1 and size <= 128:
            whole = whole.ljust(64 if size <= 64 else 128, b"\0")
            (<uint8_t *>PyBytes_AS_STRING(whole))[1] = len(whole)
        return whole

    cdef const char *_utf8(self, object obj, Py_ssize_t *size) except? NULL:
        try:
            return PyUnicode_AsUTF8AndSize(obj, size)
        except UnicodeEncodeError:  # a lone surrogate: pickle does it
            return NULL

    cdef list _pack(self, object obj):
        """Pack an object into parts that follow one another."""
        global packs_quickly
        cdef list buffers = []
        cdef bytes data
        cls = type(obj)
        if cls is dict or cls is list or cls is tuple:
            try:
                packs_quickly = 1
                try:
                    data = _pickle(obj, 5, buffer_callback=buffers.append)
                finally:
                    packs_quickly = 0
            except Exception:
                return self._pack_slowly(obj)
            if (not buffers and b"__main__" not in data and b"__mp_main__" not in data
                    and not standard_library.needs_care(data)):
                return [data]
        return self._pack_slowly(obj)

    cdef list _pack_slowly(self, object obj):
        parts = serialize.dump_parts(obj, self.exports)
        if self.exports.pending:
            pending = self.exports.pending.copy()
            for key, packed in pending.items():
                self.define(key, packed)
            self.exports.sent(list(pending))
        return parts

    cdef int _put_tagged(self, uint8_t tag, const char *data, Py_ssize_t size, uint8_t *prefix,
                         Py_ssize_t before, object wait) except -1:
        """Put bytes unchanged, after a prefix and a tag; `prefix` has room for the tag."""
        cdef q_message message
        prefix[before] = tag
        before += 1
        if <uint64_t>(before + size) <= q_inline_max():
            message.head = prefix
            message.head_size = before
            message.data = data
            message.size = size
            message.block = 0
            self._put_one(&message, wait)
            return 0
        self._new_block(before + size, &message, wait)
        try:
            with nogil:
                q_block_write(self.q, message.block, 0, prefix, before)
                q_block_write(self.q, message.block, before, data, size)
            self._put_one(&message, wait)
        except BaseException:
            self._drop_block(&message)
            raise
        return 0

    cdef int _put_bytes(self, const void *data, uint64_t size, object wait) except -1:
        cdef q_message message
        if q_put(self.q, data, size, 0) == Q_OK:
            return 0
        message.data = data
        message.size = size
        message.block = 0
        message.head_size = 0
        self._put_one(&message, wait)
        return 0

    cdef int _put_parts(self, list parts, object wait) except -1:
        cdef q_message message
        cdef bytes whole = self._fill(parts, &message, wait)
        try:
            self._put_one(&message, wait)
        except BaseException:
            self._drop_block(&message)
            raise
        return 0

    cdef bytes _fill(self, list parts, q_message *message, object wait):
        """Make a message of parts: in memory that is returned, or in a block."""
        cdef Py_ssize_t size = 0, at = 0
        cdef Py_buffer view
        cdef bytes whole
        message.head_size = 0
        for part in parts:
            size += len(part) if type(part) is not memoryview else part.nbytes
        if <uint64_t>size <= q_inline_max():
            whole = parts[0] if len(parts) == 1 and type(parts[0]) is bytes else b"".join(parts)
            message.data = PyBytes_AS_STRING(whole)
            message.size = size
            message.block = 0
            return whole
        self._new_block(size, message, wait)
        try:
            for part in parts:
                PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
                try:
                    with nogil:
                        q_block_write(self.q, message.block, at, view.buf, view.len)
                    at += view.len
                finally:
                    PyBuffer_Release(&view)
        except BaseException:
            self._drop_block(message)
            raise
        return b""

    cdef int _new_block(self, uint64_t size, q_message *message, object wait) except -1:
        cdef q_status status = Q_BUSY
        cdef void *data = NULL
        cdef int tries = 0
        cdef double deadline = -1
        if wait is not None and wait != 0:
            deadline = _now() + <double>wait
        message.data = NULL
        message.size = size
        message.block = 0
        while status == Q_BUSY:
            with nogil:
                status = q_block_new(self.q, size, &message.block, &data, 1)
            if status == Q_BUSY:
                told = self._held_up(&tries)
                if told and wait is not None and _now() >= deadline:
                    raise Full(told)
        if status != Q_OK:
            message.block = 0
            _fail(status)
        return 0

    cdef void _drop_block(self, q_message *message) noexcept:
        if message.block:
            with nogil:
                q_block_free(self.q, message.block, 1)
            message.block = 0

    cdef int _put_one(self, q_message *message, object wait) except -1:
        """Put a message; raise Full if time is up."""
        cdef size_t done = 0
        self._put_messages(message, 1, &done, wait)
        if not done:
            raise Full
        return 0

    cdef int _put_messages(self, q_message *messages, size_t number, size_t *done,
                           object wait) except -1:
        """Put messages until time is up; `done` counts those that were put, also if this fails."""
        cdef q_status status = q_put_many(self.q, messages, number, done, 0)
        cdef double deadline = -1
        cdef uint32_t sequence = 0
        cdef int tries = 0, i
        cdef bint waits = wait is None or wait != 0
        if status == Q_OK:
            return 0
        if wait is not None and wait != 0:
            deadline = _now() + <double>wait
        for i in range(LOOKS):  # as in `_take`
            if status != Q_FULL or not waits or not self._watch(Q_SPACE):
                break
            status = q_put_many(self.q, messages, number, done, 0)
        while status != Q_OK:
            sequence = q_announce(self.q, Q_SPACE)
            with nogil:
                status = q_put_many(self.q, messages, number, done, 1)
            if status == Q_BUSY:
                told = self._held_up(&tries)
                if wait is not None and (told if wait == 0 else _now() >= deadline):
                    if told and not done[0]:
                        raise Full(told)
                    return 0
            elif status == Q_FULL:
                if wait is not None and (wait == 0 or _now() >= deadline):
                    return 0
                self._sleep(Q_SPACE, sequence, deadline)
                status = q_put_many(self.q, messages, number, done, 0)
            elif status == Q_SHUT and done[0]:
                return 0
            elif status != Q_OK:
                _fail(status)
        return 0

    def put_nowait(self, obj):
        """See `Queue.put_nowait`."""
        self.put(obj, False)

    def put_many(self, items, bint block=True, timeout=None):
        """See `Queue.put_many`."""
        wait = check_wait(block, timeout)
        cdef list objects = list(check_items(items))
        if self.left:
            acknowledge(self.left)
        cdef size_t number = len(objects), done = 0, i = 0
        if not number:
            if q_is_shut(self.q):
                raise ShutDown
            return 0
        cdef q_message *messages = <q_message *>PyMem_Malloc(number * (sizeof(q_message) + 16))
        if messages == NULL:
            raise MemoryError
        cdef uint8_t *small = <uint8_t *>(messages + number)
        cdef list kept = []
        for i in range(number):
            messages[i].block = 0
            messages[i].head_size = 0
        try:
            for i in range(number):
                self._prepare(objects[i], &messages[i], &small[16 * i], kept, wait)
            self._put_messages(messages, number, &done, wait)
        finally:
            for i in range(done, number):  # the blocks of those that were put belong to consumers
                self._drop_block(&messages[i])
            PyMem_Free(messages)
        return done

    cdef int _prepare(self, object obj, q_message *message, uint8_t *small, list kept,
                      object wait) except -1:
        """Make a message of an object, in the 16 bytes of `small` or in bytes appended to `kept`."""
        cdef uint8_t encoded[SMALL_BYTES]
        cdef uint8_t *after
        cdef long long value
        cdef int overflow
        cdef bytes one
        if type(obj) is int:
            value = PyLong_AsLongLongAndOverflow(obj, &overflow)
            if not overflow:
                message.data = small
                message.size = codec_write_int(small, value) - small
                return 0
        after = self._encode(obj, encoded, encoded + SMALL_BYTES)
        if after != NULL:
            one = PyBytes_FromStringAndSize(<char *>encoded, after - encoded)
            message.data = PyBytes_AS_STRING(one)
            message.size = PyBytes_GET_SIZE(one)
            kept.append(one)
        elif type(obj) is bytes:
            kept.append(self._fill([b"b", obj], message, wait))
        else:
            kept.append(self._fill(self._pack(obj), message, wait))
        return 0

    # -- getting -----------------------------------------------------------------------------------

    cdef int _take(self, uint32_t reader, q_item *items, size_t limit, size_t *number,
                   object wait) except -1:
        """Take up to `limit` messages; `number` is 0 when time is up."""
        cdef q_status status = q_take(self.q, reader, items, limit, number, 0)
        cdef double deadline = -1
        cdef uint32_t sequence
        cdef int tries = 0, i
        cdef bint waits = wait is None or wait != 0
        if status == Q_OK:
            return 0
        if wait is not None and wait != 0:
            deadline = _now() + <double>wait
        # While messages come during these looks, the caller need not announce that it sleeps.
        for i in range(LOOKS):
            if status != Q_EMPTY or not waits or not self._watch(Q_ITEMS):
                break
            status = q_take(self.q, reader, items, limit, number, 0)
        if status == Q_OK:
            return 0
        if reader and waits:
            q_reader_waits(self.q, reader, 1)
        try:
            while status != Q_OK:
                sequence = q_announce(self.q, Q_ITEMS)
                with nogil:
                    status = q_take(self.q, reader, items, limit, number, 1)
                if status == Q_BUSY:
                    told = self._held_up(&tries)
                    if wait is not None and (told if wait == 0 else _now() >= deadline):
                        raise Empty(told) if told else Empty
                elif status == Q_EMPTY or status == Q_NOT_YET:
                    if wait is not None and (wait == 0 or _now() >= deadline):
                        number[0] = 0
                        return 0
                    self._sleep(Q_ITEMS, sequence, deadline)
                    status = q_take(self.q, reader, items, limit, number, 0)
                elif status != Q_OK:
                    _fail(status)
        finally:
            if reader and waits:
                q_reader_waits(self.q, reader, 0)
        return 0

    def get(self, bint block=True, timeout=None):
        """See `Queue.get`."""
        cdef q_item item
        cdef size_t number = 0
        if timeout is not None or not block:
            timeout = check_wait(block, timeout)
        if self.left:
            acknowledge(self.left)
        if q_take(self.q, 0, &item, 1, &number, 0) != Q_OK:
            self._take(0, &item, 1, &number, timeout)
            if not number:
                raise Empty
        return self._unpack(&item)

    def get_nowait(self):
        """See `Queue.get_nowait`."""
        return self.get(False)

    def get_many(self, max_items, bint block=True, timeout=None):
        """See `Queue.get_many`."""
        cdef size_t number = 0, i = 0, finished = 0, limit
        cdef int64_t value
        cdef const uint8_t *data
        cdef q_item *items
        cdef list objects = []
        wait = check_wait(block, timeout)
        limit = min(check_max_items(max_items), max(1, q_size_hint(self.q)))
        if self.left:
            acknowledge(self.left)
        items = <q_item *>PyMem_Malloc(limit * sizeof(q_item))
        if items == NULL:
            raise MemoryError
        try:
            self._take(0, items, limit, &number, wait)
            if not number:
                raise Empty
            try:
                while i < number:
                    data = <const uint8_t *>items[i].data
                    if codec_read_int(data, data + items[i].size, &value):
                        objects.append(codec_new_int(value))
                    else:
                        objects.append(self._unpack(&items[i], False))
                    i += 1
            except BaseException as error:
                if not isinstance(error, Exception) or is_interrupt(error):
                    self._give_back(items, 0, number)
                    i = 0
                    raise
                # If there are objects before it, the next call is to raise.
                if not objects and not isinstance(error, MemoryError):
                    i = 1
                self._give_back(items, i, number)
                if not objects:
                    raise
            finally:  # only now: until here all of them can be given back
                while finished < i:
                    finished += q_done_many(self.q, &items[finished], i - finished)
                    if finished < i and items[finished].kind == Q_BLOCK:
                        self._finish(&items[finished], True)
                    finished += 1
        finally:
            PyMem_Free(items)
        return objects

    cdef void _give_back(self, q_item *items, size_t first, size_t number) noexcept:
        cdef size_t i
        cdef q_status status
        for i in range(first, number):
            status = Q_BUSY
            while status == Q_BUSY:
                with nogil:
                    status = q_give_back(self.q, &items[i], 1)

    cdef object _unpack(self, q_item *item, bint finish=True, uint64_t skip=0):
        """Rebuild the object; with `finish`, finish the record, too.

        `skip` is the number of bytes at the beginning that were read before.
        """
        cdef const uint8_t *data = <const uint8_t *>item.data + skip
        cdef const uint8_t *at = data
        cdef Py_ssize_t size = item.size - skip
        cdef int64_t number
        if item.kind == Q_END:
            return END
        if size < 1:
            raise RuntimeError("the queue's shared memory is damaged: an empty message")
        cdef uint8_t tag = data[0]
        if codec_read_int(data, data + size, &number):
            if finish:
                self._finish(item)
            return codec_new_int(number)
        if finish:
            return self._unpack_and_finish(item, skip)
        if tag == 109:
            if size < 3 or data[1] > size - 1:
                raise RuntimeError("the queue's shared memory is damaged: an empty message")
            return self._with_kind(item, skip, self._unpack(item, False, skip + data[1]))
        if tag < 4 or (tag == 0x80 and (item.kind != Q_INLINE or function_globals.shared_globals is not None)):
            return serialize.loads(self._copy_of(item, skip), self)
        if tag == 0x80:
            view = PyMemoryView_FromMemory(<char *>data, size, PyBUF_READ)
            try:
                return _unpickle(view)
            except MemoryError:
                raise
            except BaseException as error:
                copy = bytes(view)
                serialize.let_interrupt_through(error)
                return serialize.loads(copy, self)
            finally:
                view.release()
        try:
            if tag == 98:
                return self._copy(&data[1], size - 1)
            if tag == 115:
                return PyUnicode_DecodeUTF8(<const char *>&data[1], size - 1, "strict")
            return codec_read(self.codec, &at, data + size)
        except (SerializationError, MemoryError):
            raise
        except BaseException as error:  # a class cannot be imported here
            serialize.let_interrupt_through(error)
            raise serialize.not_rebuilt(_class_name(data, size), error) from error

    cdef object _unpack_and_finish(self, q_item *item, uint64_t skip):
        """Rebuild the object, then finish the record: it is given back if a signal comes between."""
        cdef Block block = None
        cdef bint is_over = True
        try:
            if item.kind == Q_BLOCK:
                block = self._lend(item, skip)
            if block is None:
                return self._unpack(item, False, skip)
            if block.before == skip:
                return serialize.loads(memoryview(block), self)
            return self._with_kind(item, skip, serialize.loads(memoryview(block), self))
        except BaseException as error:
            if isinstance(error, MemoryError) or is_interrupt(error):
                is_over = False
                self._give_back(item, 0, 1)  # it waits for another call, or another reader
            raise
        finally:
            if is_over:
                self._finish(item, block is None)
                if block is not None:
                    q_lend(self.q, item, &block.lent)  # it is free when no object uses it

    cdef object _with_kind(self, q_item *item, uint64_t skip, found):
        """Return the data, kind and order of a message of `qmill.Q`."""
        cdef const uint8_t *data = <const uint8_t *>item.data + skip
        cdef const uint8_t *at = data + 2
        kind = codec_read(self.codec, &at, data + data[1])
        order = codec_read(self.codec, &at, data + data[1])
        return found, kind, order

    cdef Block _lend(self, q_item *item, uint64_t skip):
        """Return the memory of a message packed by `serialize`, as its buffers stay in it."""
        cdef const uint8_t *data = <const uint8_t *>item.data
        cdef Block block
        if data[skip] == 109 and item.size > skip + 2 and item.size > skip + data[skip + 1]:
            skip += data[skip + 1]
        if data[skip] >= 4 and data[skip] != 0x80:
            return None
        block = Block()
        block.ring = self
        block.before = skip
        block.data = <void *>&data[skip]
        block.size = item.size - skip
        return block

    cdef bytes _copy(self, const uint8_t *data, Py_ssize_t size):
        cdef bytes copy = PyBytes_FromStringAndSize(NULL, size)
        cdef char *into = PyBytes_AS_STRING(copy)
        if size < 1 << 16:
            memcpy(into, data, size)
        else:
            with nogil:
                memcpy(into, data, size)
        return copy

    cdef bytearray _copy_of(self, q_item *item, uint64_t skip):
        cdef bytearray copy = bytearray(item.size - skip)
        memcpy(<char *>copy, <const uint8_t *>item.data + skip, item.size - skip)
        return copy

    cdef int _finish(self, q_item *item, bint frees=False) except -1:
        cdef q_status status = q_done(self.q, item, 0)
        cdef int tries = 0
        cdef bint is_large = item.kind == Q_BLOCK
        while status == Q_BUSY:
            with nogil:
                status = q_done(self.q, item, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK and status != Q_EMPTY:
            _fail(status)
        if is_large and (frees or data_is_plain(item)):
            with nogil:
                q_block_free(self.q, item.block, 1)
        return 0

    def peek(self, bint block=True, timeout=None):
        """See `Queue.peek`."""
        cdef bytearray copy = bytearray(256)
        cdef uint64_t size = 0, capacity = 256
        cdef uint32_t kind = 0
        cdef q_status status
        cdef double deadline = -1
        cdef uint32_t sequence
        cdef q_item item
        cdef char *into = copy
        cdef int tries = 0
        wait = check_wait(block, timeout)
        if wait is not None:
            deadline = _now() + <double>wait
        while True:
            sequence = q_announce(self.q, Q_ITEMS)
            with nogil:
                status = q_peek(self.q, into, capacity, &size, &kind, 1)
            if status == Q_OK:
                if size <= capacity:
                    break
                copy = bytearray(size)
                capacity = size
                into = copy
            elif status == Q_BUSY:
                told = self._held_up(&tries)
                if wait is not None and (told if wait == 0 else _now() >= deadline):
                    raise Empty(told) if told else Empty
            elif status == Q_EMPTY or status == Q_NOT_YET:
                if wait is not None and _now() >= deadline:
                    raise Empty
                self._sleep(Q_ITEMS, sequence, deadline)
            else:
                _fail(status)
        item.kind = Q_END if kind == Q_END else Q_INLINE
        item.data = into
        item.size = size
        return self._unpack(&item, False)

    # -- for Q -------------------------------------------------------------------------------------

    def new_reader(self):
        """Return the number of a new reader."""
        cdef uint32_t reader = 0
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        self.settle()  # messages of dead readers are taken before new ones
        while status == Q_BUSY or status == Q_NO_SLOT:
            with nogil:
                status = q_reader_new(self.q, &reader, 1)
            if status == Q_NO_SLOT:
                with nogil:
                    q_sweep(self.q, 0, 1)
                    status = q_reader_new(self.q, &reader, 1)
                if status == Q_NO_SLOT:
                    break
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK:
            _fail(status)
        return reader

    def take(self, uint32_t reader):
        """Take a message under a lease: the lease and the object, or (0, END)."""
        cdef q_item item
        cdef size_t number = 0
        if self.left:
            acknowledge(self.left)
        self._take(reader, &item, 1, &number, None)
        if item.kind == Q_END:
            return 0, END
        try:
            return item.record, self._unpack(&item, False)
        except BaseException as error:
            if (
                not isinstance(error, Exception)
                or isinstance(error, MemoryError)
                or is_interrupt(error)
            ):
                self.lease_give_back(reader, item.record)
            else:
                self.lease_done(reader, item.record)
            raise

    def lease_done(self, uint32_t reader, uint64_t lease, bint surely=True):
        """End a lease: its message is finished.

        If not `surely`, give up when a stopped process holds the lock for long.
        """
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        while status == Q_BUSY:
            with nogil:
                status = q_lease_done(self.q, reader, lease, 1)
            if status == Q_BUSY and self._held_up(&tries) and not surely and tries >= LEAVE_TRIES:
                return  # as in close_reader
        if status != Q_OK:
            _fail(status)

    def lease_give_back(self, uint32_t reader, uint64_t lease):
        """End a lease: its message waits again."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        while status == Q_BUSY:
            with nogil:
                status = q_lease_give_back(self.q, reader, lease, 1)
            if status == Q_BUSY and self._held_up(&tries) and tries >= LEAVE_TRIES:
                return  # as in close_reader

    def lease_release(self, uint32_t reader, uint64_t lease, double delay):
        """End a lease of a message that the loop has had: it waits again; False if there is none."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        cdef uint64_t delay_ms = <uint64_t>(delay * 1000 + 0.999)
        while status == Q_BUSY:
            with nogil:
                status = q_release(self.q, reader, lease, delay_ms, 1)
            if status == Q_BUSY and self._held_up(&tries) and tries >= LEAVE_TRIES:
                return True  # as in close_reader
        if status != Q_OK and status != Q_EMPTY:
            _fail(status)
        return status == Q_OK

    def close_reader(self, uint32_t reader):
        """End a reader; messages that it still holds go back, as if they had not been taken."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        while status == Q_BUSY:
            with nogil:
                status = q_reader_close(self.q, reader, 1)
            if status == Q_BUSY and self._held_up(&tries) and tries >= LEAVE_TRIES:
                return  # its messages stay leased until this process ends

    def end(self, bytes tag):
        """Put an END."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        cdef const char *data = PyBytes_AS_STRING(tag)
        cdef uint32_t size = len(tag)
        while status == Q_BUSY:
            with nogil:
                status = q_end(self.q, data, size, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK:
            _fail(status)

    def withdraw_ends(self, bytes tag):
        """Take back the unread ENDs of this tag, and return how many."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        cdef uint64_t number = 0
        cdef const char *data = PyBytes_AS_STRING(tag)
        cdef uint32_t size = len(tag)
        while status == Q_BUSY:
            with nogil:
                status = q_withdraw(self.q, data, size, &number, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK:
            _fail(status)
        return number

    cdef bytes _look_aside(self, uint64_t skip, q_mark mark, q_aside *found):
        """Return the bytes of a message that was set aside, and mark it; None if there is none."""
        cdef bytearray copy = bytearray(256)
        cdef char *into = copy
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        found.capacity = 256
        while True:
            found.into = into
            with nogil:
                status = q_look_aside(self.q, skip, mark, found, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
            elif status == Q_EMPTY:
                return None
            elif status != Q_OK:
                _fail(status)
            elif found.size <= found.capacity:
                return PyBytes_FromStringAndSize(into, found.size)
            else:
                copy = bytearray(found.size)
                into = copy
                found.capacity = found.size

    def set_aside(self, bint only_new):
        """List the messages that were set aside, each with its number for `requeue`.

        If `only_new`, list those that no such call has returned before.
        """
        cdef q_aside found
        cdef q_item item
        cdef list messages = []
        cdef bytes copy
        while (copy := self._look_aside(
            0 if only_new else len(messages), Q_RAISED if only_new else Q_ANY, &found
        )) is not None:
            item.kind = Q_INLINE
            item.data = PyBytes_AS_STRING(copy)
            item.size = len(copy)
            messages.append((self._unpack(&item, False), found.record))
        return messages

    def requeue(self, uint64_t record):
        """Put back a message that was set aside; return whether it still was."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        while status == Q_BUSY:
            with nogil:
                status = q_requeue(self.q, record, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK and status != Q_EMPTY:
            _fail(status)
        return status == Q_OK

    cdef int _tell_aside(self) except -1:
        """Log messages that were set aside and are not logged yet, if this process set one aside."""
        cdef q_aside found
        cdef bytes copy
        if q_newly_aside(self.q):
            from ...leases import log_set_aside

            while (copy := self._look_aside(0, Q_LOGGED, &found)) is not None:
                log_set_aside(self.name, self._shown(copy), found.deaths)
        return 0

    cdef object _shown(self, bytes data):
        """Show a message in brief, without running its code, which may have killed its readers."""
        cdef const uint8_t *at
        cdef codec *plain
        if data[:1] == b"m":
            data = data[data[1]:]
        if data[:1] == b"b":
            return describe(data[1:])
        if data[:1] == b"s":
            return describe(data[1:].decode())
        if data[0] < 4 or data[0] == 0x80:
            return shown(data)
        plain = codec_new(self.exports.done, copyreg.dispatch_table, {}, _refuse)
        at = <const uint8_t *>PyBytes_AS_STRING(data)
        try:
            return describe(codec_read(plain, &at, at + len(data)))
        except Exception:
            return "an instance of " + _class_name(at, len(data))
        finally:
            codec_free(plain)

    # -- bytes -------------------------------------------------------------------------------------

    def put_parts(self, list parts):
        """Put bytes as they are: these parts, one after another."""
        self._put_parts(parts, 0.0)

    def take_bytes(self):
        """Take, without waiting, a message of `put_parts`, in this process's own memory."""
        cdef q_item item
        cdef size_t number = 0
        cdef bytearray copy
        cdef Block block
        self._take(0, &item, 1, &number, 0.0)
        if not number:
            raise Empty
        if item.kind == Q_BLOCK:
            block = Block()
            block.ring = self
            block.data = <void *>item.data
            block.size = item.size
            self._finish(&item)
            q_lend(self.q, &item, &block.lent)
            return memoryview(block)
        copy = self._copy_of(&item, 0)
        self._finish(&item)
        return memoryview(copy)

    # -- finishing and counting --------------------------------------------------------------------

    def task_done(self):
        """See `Queue.task_done`."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        if task_done(self.left):
            return
        while status == Q_BUSY:
            with nogil:
                status = q_task_done(self.q, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK:
            _fail(status)

    def join(self):
        """See `Queue.join`."""
        cdef uint32_t sequence
        if self.left:  # else it would wait for a message that this thread holds
            acknowledge(self.left)
        while True:
            sequence = q_announce(self.q, Q_IDLE)
            if not q_unfinished(self.q):
                return
            self._sleep(Q_IDLE, sequence, -1)

    def shutdown(self, bint immediate=False):
        """See `Queue.shutdown`."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        while status == Q_BUSY:
            with nogil:
                status = q_shutdown(self.q, immediate, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK:
            _fail(status)

    cdef int _count(self, q_counts *counts) except -1:
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        while status == Q_BUSY:
            with nogil:
                status = q_statistics(self.q, counts, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        return _fail(status) if status != Q_OK else 0

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
        return Statistics(
            c.size, c.leased, c.unfinished, c.put, c.taken, c.done, c.lost, c.redelivered,
            c.poisoned, c.maxsize,
        )

    def full(self):
        """See `Queue.full`."""
        return bool(q_full(self.q))

    def settle(self):
        """Wait until every event so far, such as the death of a reader, is counted."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        while status == Q_BUSY:
            with nogil:
                status = q_sweep(self.q, 0, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        self._tell_aside()

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
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        while status == Q_BUSY and tries < LEAVE_TRIES:
            with nogil:
                status = q_leave(self.q, 1, 1)
            tries += 1

    # -- definitions -------------------------------------------------------------------------------

    def define(self, bytes key, data):
        """Give the queue a definition that messages will refer to."""
        cdef q_status status = Q_BUSY
        cdef int tries = 0
        cdef bytes packed = bytes(data)
        cdef const char *name = PyBytes_AS_STRING(key)
        cdef const char *body = PyBytes_AS_STRING(packed)
        cdef uint32_t key_size = len(key)
        cdef uint64_t size = len(packed)
        while status == Q_BUSY:
            with nogil:
                status = q_define(self.q, name, key_size, body, size, 1)
            if status == Q_BUSY:
                self._held_up(&tries)
        if status != Q_OK:
            _fail(status)

    def fetch(self, bytes key):
        """Return a definition, for `serialize.loads`; KeyError if there is none."""
        cdef const void *data
        cdef uint64_t size
        cdef q_status status = q_fetch(self.q, PyBytes_AS_STRING(key), len(key), &data, &size)
        if status == Q_EMPTY:
            raise KeyError(key)
        if status != Q_OK:
            _fail(status)
        return PyBytes_FromStringAndSize(<const char *>data, size)

    def keep(self, bytes key, built):
        """Keep an object that `serialize.loads` has built, as long as this lives."""
        self.definitions[key] = built


def quick_put(slow, cls):
    """Return `qmill.Q.put`, fast for queues that have a `_ring`; it calls `slow` for the rest."""

    def put(self, data=None, *, kind="", order=0, block=True, timeout=None):
        ring = self._ring
        if type(ring) is Ring and (<Ring>ring)._put_message(data, kind, order, block, timeout, cls):
            return self
        return slow(self, data, kind=kind, order=order, block=block, timeout=timeout)

    return update_wrapper(put, slow)


cdef class _Resolver:
    """Finds the classes of the instances that a ring's codec reads, and keeps them."""

    cdef object ring
    cdef dict classes

    def __init__(self, ring, classes):
        self.ring = ref(ring)  # weak: else the ring and this would keep each other alive
        self.classes = classes

    def __call__(self, name):
        found = definitions.class_of(name, self.ring())
        self.classes[name] = found
        return found[0]


@cython.no_gc_clear
cdef class _Hold:
    """The message that a loop over `Messages` has in hand: see `queues.leases.Hold`."""

    cdef Ring ring
    cdef readonly list left
    cdef public list among
    cdef public object given
    cdef public unsigned long thread
    cdef uint32_t number, generation
    cdef uint64_t lease

    cdef int begin(self) except -1:
        """Begin the loop, in this thread."""
        self.lease = 0
        self.given = NOTHING
        self.number = self.ring.new_reader()
        self.generation = q_fork_generation()
        self.thread = PyThread_get_thread_ident()
        begin(self)
        return 0

    def done(self):
        """Acknowledge the message in hand; the loop goes on."""
        cdef uint64_t lease = self.lease
        self.lease = 0
        self.given = NOTHING
        if lease and self.number and self.generation == q_fork_generation():
            self.ring.lease_done(self.number, lease)

    def release(self, double delay):
        """Give back the message in hand; False if this process does not hold it."""
        cdef uint64_t lease = self.lease
        self.lease = 0
        self.given = NOTHING
        if not lease or not self.number or self.generation != q_fork_generation():
            return False
        return self.ring.lease_release(self.number, lease, delay)

    def end(self):
        """End the loop, and acknowledge the message in hand."""
        cdef uint32_t number = self.number
        cdef uint64_t lease = self.lease
        self.number = 0
        self.lease = 0
        self.given = NOTHING
        if number and self.generation == q_fork_generation():
            if lease:
                self.ring.lease_done(number, lease, False)
            self.ring.close_reader(number)

    def give_back(self):
        """End the loop, and give back the message in hand."""
        if self.lease:
            self.release(0.0)
        self.end()

    cdef int leave(self, bint by_exception) except -1:
        """As `queues.leases.leave`, but no signal handler runs meanwhile."""
        if by_exception and self.lease:
            self.thread = PyThread_get_thread_ident()
            self.left.append(self)
            return 0
        if self.among is not None and self in self.among:
            self.among.remove(self)
        self.end()
        return 0


@cython.no_gc_clear
cdef class Messages:
    """Iterates over messages, each under a lease until the next is asked for.

    Args:
        ring: The queue.
        cls: The message class of `qmill.Q`, with slots; None for the objects as they were put.
        members: The slots of data, kind and order.
    """

    cdef Ring ring
    cdef object cls
    cdef tuple members
    cdef _Hold hold
    cdef bint is_over
    cdef int busy  # a thread is in `__next__`

    def __init__(self, Ring ring, cls, tuple members):
        cdef _Hold hold = _Hold()
        self.ring = hold.ring = ring
        self.cls = cls
        self.members = members
        hold.left = ring.left
        hold.given = NOTHING
        self.hold = hold

    def __iter__(self):
        return self

    def __next__(self):
        if not enter_once(&self.busy):
            raise ValueError(
                "another thread is waiting in this iterator: give each thread one of its own, "
                "as a for loop over the queue does"
            )
        try:
            return self._next()
        finally:
            leave_again(&self.busy)

    cdef object _next(self):
        cdef q_item item
        cdef size_t number = 0
        cdef bint is_unread = False  # whether the leased message has not been given to the loop
        cdef _Hold hold = self.hold
        if self.is_over:
            raise StopIteration
        try:
            if self.ring.left:
                acknowledge(self.ring.left)
            if not hold.number or hold.generation != q_fork_generation():
                hold.begin()  # a forked child begins anew
            elif hold.lease and q_next(self.ring.q, hold.number, hold.lease, &item, 0) == Q_OK:
                hold.lease = item.record
                is_unread = True
                found = self._message(&item)
                hold.given = found
                return found
            elif hold.lease:
                self.ring.lease_done(hold.number, hold.lease)
            hold.lease = 0
            hold.given = NOTHING
            self.ring._take(hold.number, &item, 1, &number, None)
            if item.kind == Q_END:
                self._end()
                raise StopIteration
            hold.lease = item.record
            is_unread = True
            found = self._message(&item)
            hold.given = found
            return found
        except StopIteration:
            raise
        except ShutDown:
            self._end()
            raise StopIteration from None
        except BaseException as error:
            if is_unread and (
                not isinstance(error, Exception)
                or isinstance(error, MemoryError)
                or is_interrupt(error)
            ):
                hold.lease = 0  # so that it goes back
            self._end()
            raise

    cdef object _message(self, q_item *item):
        cdef const uint8_t *data = <const uint8_t *>item.data
        cdef const uint8_t *at = data + 2
        cdef const uint8_t *end
        cdef PyTypeObject *cls = <PyTypeObject *>self.cls
        if self.cls is None:
            return self.ring._unpack(item, False)
        if item.size > PLAIN_BYTES and not memcmp(data, PLAIN_PREFIX, PLAIN_BYTES):
            found = self.ring._unpack(item, False, PLAIN_BYTES)
            return codec_make(cls, self.members, found, "", 0)
        if item.size > 2 and data[0] == 109 and data[1] < item.size:
            end = data + data[1]
            kind = codec_read(self.ring.codec, &at, end)
            order = codec_read(self.ring.codec, &at, end)
            return codec_make(
                cls, self.members, self.ring._unpack(item, False, data[1]), kind, order
            )
        found = self.ring._unpack(item, False)
        if type(found) is tuple and len(<tuple>found) == 3:
            return codec_make(cls, self.members, found[0], found[1], found[2])
        return found

    cdef int _end(self) except -1:
        self.is_over = True
        return self.hold.leave(False)

    def close(self):
        """Leave the loop, as an exception does: a generator that is closed calls this, too."""
        if not self.is_over:
            self.is_over = True
            self.hold.leave(True)

    def __dealloc__(self):
        cdef bint by_exception = left_by_exception
        if not self.is_over and self.hold is not None:
            self.hold.leave(by_exception)


@cython.no_gc_clear
cdef class Loop:
    """Iterates over a generator's messages, and settles the loop's hold when the loop is left.

    Args:
        messages: The generator.
        hold: The loop's `queues.leases.Hold`.
    """

    cdef object messages, hold
    cdef bint is_over

    def __init__(self, messages, hold):
        self.messages = messages
        self.hold = hold

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.messages)

    def close(self):
        """Leave the loop, as an exception does: a generator that is closed calls this, too."""
        if not self.is_over:
            self.is_over = True
            leave(self.hold, True)

    def __del__(self):
        # In a garbage collection only, before it clears the hold: see `tell_leaving`.
        self._leave(False)

    def __dealloc__(self):
        self._leave(left_by_exception)

    cdef int _leave(self, bint by_exception) except -1:
        if self.hold is not None and not self.is_over and not is_finalizing():
            self.is_over = True
            leave(self.hold, by_exception)
        return 0


def forgetting(dict known, number):
    """Return a callback for a weak reference in a dict that removes it from the dict.

    No signal handler runs in it: the handler's exception would be lost.
    """

    remove = _remove_dead_weakref  # a name of the module may be gone when the program ends

    def forget(reference):
        remove(known, number)

    return forget


tell_leaving(<PyTypeObject *>Messages, <PyTypeObject *>Loop)


def _refuse(name):
    """Find no class: a codec with this reads built-in types only."""
    raise LookupError(name)


cdef bint data_is_plain(q_item *item) noexcept:
    """Whether a large message is a str or bytes: it is copied, so no object uses its memory."""
    cdef const uint8_t *data = <const uint8_t *>item.data
    if data[0] == 109 and item.size > 2 and data[1] < item.size:
        data += data[1]
    return data[0] == 98 or data[0] == 115


cdef str _class_name(const uint8_t *data, Py_ssize_t size):
    """Name the class of an instance that the codec has written."""
    cdef bytes name
    if data[0] != 111 or size < 2 or size < data[1] + 2:
        return "unknown (the data is damaged)"
    name = data[2:2 + data[1]]
    if name[:1] == b"K":
        return "__main__." + name[17:].decode(errors="replace")
    return name[1:].decode(errors="replace").replace("\n", ".")
