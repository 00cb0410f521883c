"""Packs objects and puts them into a ring."""

from functools import update_wrapper

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc
from cpython.object cimport PyObject_TypeCheck


cdef enum:
    SMALL_BYTES = 4096  # larger objects are pickled, or copied by themselves
    PREFIX_BYTES = 256
    PLAIN_BYTES = 9

cdef object _pickle = pickling.dumps
cdef const char *PLAIN_PREFIX = b"m\x09a\0\0\0\0001\0"  # of a message without kind and order


cdef uint8_t *_write_int(object obj, uint8_t *at) noexcept:
    """Write an int of up to 64 bits, as the codec does; NULL for any other object."""
    cdef int overflow
    cdef long long number
    if type(obj) is not int:
        return NULL
    number = PyLong_AsLongLongAndOverflow(obj, &overflow)
    return NULL if overflow else codec_write_int(at, number)


cdef bint _put_message(Ring ring, data, kind, order, bint block, timeout, cls) except -1:
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
    if ring.left:
        acknowledge(ring.left)
    if not kind and order == 0:
        memcpy(small, PLAIN_PREFIX, PLAIN_BYTES)
        at = small + PLAIN_BYTES
    else:
        at = codec_write(ring.codec, &small[2], &small[PREFIX_BYTES], kind)
        if at != NULL:
            at = codec_write(ring.codec, at, &small[PREFIX_BYTES], order)
        if at == NULL:
            return False
        small[0] = c'm'
        small[1] = at - small
    _put(ring, data, small, at, timeout)
    return True


cdef int _put(Ring ring, object obj, uint8_t *small, uint8_t *at, object wait) except -1:
    """Put an object as a message that begins with the bytes of `small` before `at`."""
    cdef const char *text
    cdef Py_ssize_t size
    cdef uint8_t *after = _encode(ring.codec, obj, at, small + SMALL_BYTES)
    cdef list parts
    if after != NULL:
        return _put_bytes(ring, small, after - small, wait)
    cls = type(obj)
    if cls is bytes:
        return _put_tagged(ring, c'b', PyBytes_AS_STRING(obj), len(obj), small, at - small, wait)
    if cls is str and (text := _utf8(obj, &size)) != NULL:
        return _put_tagged(ring, c's', text, size, small, at - small, wait)
    parts = _pack(ring, obj)
    if at != small:
        parts.insert(0, _padded(parts, small, at - small))
    return _put_parts(ring, parts, wait)


cdef bytes _padded(list parts, uint8_t *prefix, Py_ssize_t size):
    """Return a prefix for some parts, padded so that the buffers among them stay aligned."""
    cdef bytes whole = PyBytes_FromStringAndSize(<char *>prefix, size)
    if len(parts) > 1 and size <= 128:
        whole = whole.ljust(64 if size <= 64 else 128, b"\0")
        (<uint8_t *>PyBytes_AS_STRING(whole))[1] = len(whole)
    return whole


cdef const char *_utf8(object obj, Py_ssize_t *size) except? NULL:
    try:
        return PyUnicode_AsUTF8AndSize(obj, size)
    except UnicodeEncodeError:  # a lone surrogate: pickle does it
        return NULL


cdef list _pack(Ring ring, object obj):
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
            return _pack_slowly(ring, obj)
        _load_packing()
        if (not buffers and b"__main__" not in data and b"__mp_main__" not in data
                and not standard_library.needs_care(data)):
            return [data]
    return _pack_slowly(ring, obj)


cdef list _pack_slowly(Ring ring, object obj):
    _load_packing()
    if ring.exports is None:
        ring.exports = serialize.Exports(done=ring.exported)
    parts = serialize.dump_parts(obj, ring.exports)
    if ring.exports.pending:
        pending = ring.exports.pending.copy()
        for key, packed in pending.items():
            ring.define(key, packed)
        ring.exports.sent(list(pending))
    return parts


cdef int _put_tagged(Ring ring, uint8_t tag, const char *data, Py_ssize_t size, uint8_t *prefix,
                     Py_ssize_t before, object wait) except -1:
    """Put bytes unchanged, after a prefix and a tag; `prefix` has room for the tag."""
    cdef q_message message
    prefix[before] = tag
    before += 1
    if <uint64_t>(before + size) <= q_inline_max():
        message = q_message(data, size, 0, prefix, before)
    else:
        _new_block(ring, before + size, &message, wait)
        with nogil:
            q_block_write(ring.q, message.block, 0, prefix, before)
            q_block_write(ring.q, message.block, before, data, size)
    return _put_one(ring, &message, wait)


cdef int _put_bytes(Ring ring, const void *data, uint64_t size, object wait) except -1:
    cdef q_message message
    if q_put(ring.q, data, size, 0) == Q_OK:
        return 0
    message = q_message(data, size, 0, NULL, 0)
    return _put_one(ring, &message, wait)


cdef int _put_parts(Ring ring, list parts, object wait) except -1:
    cdef q_message message
    cdef bytes whole = _fill(ring, parts, &message, wait)
    return _put_one(ring, &message, wait)


cdef bytes _fill(Ring ring, list parts, q_message *message, object wait):
    """Make a message of parts: in memory that is returned, or in a block."""
    cdef Py_ssize_t size = 0, at = 0
    cdef Py_buffer view
    cdef bytes whole
    for part in parts:
        size += len(part) if type(part) is not memoryview else part.nbytes
    if <uint64_t>size <= q_inline_max():
        whole = parts[0] if len(parts) == 1 and type(parts[0]) is bytes else b"".join(parts)
        message[0] = q_message(PyBytes_AS_STRING(whole), size, 0, NULL, 0)
        return whole
    _new_block(ring, size, message, wait)
    try:
        for part in parts:
            PyObject_GetBuffer(part, &view, PyBUF_SIMPLE)
            try:
                with nogil:
                    q_block_write(ring.q, message.block, at, view.buf, view.len)
                at += view.len
            finally:
                PyBuffer_Release(&view)
    except BaseException:
        _drop_block(ring, message)
        raise
    return b""


cdef int _new_block(Ring ring, uint64_t size, q_message *message, object wait) except -1:
    """Make a message in a block; raise Full if a stopped process has the lock when time is up."""
    cdef q_status status = Q_BUSY
    cdef void *data = NULL
    cdef uint64_t block = 0
    cdef int tries = 0
    cdef double deadline = _deadline(wait)
    message[0] = q_message(NULL, size, 0, NULL, 0)
    while status == Q_BUSY:
        with nogil:
            status = q_block_new(ring.q, size, &block, &data, 1)
        if status == Q_BUSY:
            told = _held_up(ring, &tries)
            if told and _now() >= deadline:
                raise Full(told)
    if status != Q_OK:
        _fail(status)
    message.block = block
    return 0


cdef void _drop_block(Ring ring, q_message *message) noexcept:
    if message.block:
        with nogil:
            q_block_free(ring.q, message.block, 1)
        message.block = 0


cdef int _put_one(Ring ring, q_message *message, object wait) except -1:
    """Put a message; raise Full if time is up. Its block is freed if it was not put."""
    cdef size_t done = 0
    try:
        _put_messages(ring, message, 1, &done, wait)
    finally:
        if not done:
            _drop_block(ring, message)
    if not done:
        raise Full
    return 0


cdef int _put_messages(Ring ring, q_message *messages, size_t number, size_t *done,
                       object wait) except -1:
    """Put messages until time is up; `done` counts those that were put, also if this fails."""
    cdef q_status status = q_put_many(ring.q, messages, number, done, 0)
    cdef double deadline
    cdef uint32_t sequence
    cdef int tries = 0, i
    if status == Q_OK:
        return 0
    deadline = _deadline(wait)
    for i in range(LOOKS):  # as in `_take`
        if status != Q_FULL or not deadline or not _watch(ring, Q_SPACE):
            break
        status = q_put_many(ring.q, messages, number, done, 0)
    while status != Q_OK:
        sequence = q_announce(ring.q, Q_SPACE)
        with nogil:
            status = q_put_many(ring.q, messages, number, done, 1)
        if status == Q_OK or (status == Q_SHUT and done[0]):
            break
        if _is_late(ring, status, Q_SPACE, sequence, deadline, &tries, done[0] > 0):
            break
        status = q_put_many(ring.q, messages, number, done, 0)
    return 0


cdef int _prepare(Ring ring, object obj, q_message *message, uint8_t *small, list kept,
                  object wait) except -1:
    """Make a message of an object, in the 16 bytes of `small` or in bytes appended to `kept`."""
    cdef uint8_t encoded[SMALL_BYTES]
    cdef uint8_t *after = _write_int(obj, small)
    cdef bytes one
    if after != NULL:
        message[0] = q_message(small, after - small, 0, NULL, 0)
        return 0
    after = _encode(ring.codec, obj, encoded, encoded + SMALL_BYTES)
    if after != NULL:
        one = PyBytes_FromStringAndSize(<char *>encoded, after - encoded)
        message[0] = q_message(PyBytes_AS_STRING(one), PyBytes_GET_SIZE(one), 0, NULL, 0)
        kept.append(one)
    elif type(obj) is bytes:
        kept.append(_fill(ring, [b"b", obj], message, wait))
    else:
        kept.append(_fill(ring, _pack(ring, obj), message, wait))
    return 0


cdef object _put_many(Ring ring, list objects, object wait):
    """Put objects; return how many were put when time was up."""
    cdef size_t number = len(objects), done = 0, i
    cdef q_message *messages = <q_message *>PyMem_Calloc(number, sizeof(q_message) + 16)
    if messages == NULL:
        raise MemoryError
    cdef uint8_t *small = <uint8_t *>(messages + number)
    cdef list kept = []
    try:
        for i in range(number):
            _prepare(ring, objects[i], &messages[i], &small[16 * i], kept, wait)
        _put_messages(ring, messages, number, &done, wait)
    finally:
        for i in range(done, number):  # the blocks of those that were put belong to consumers
            _drop_block(ring, &messages[i])
        PyMem_Free(messages)
    return done


def quick_put(slow, cls):
    """Return `qmill.Q.put`, fast for queues that have a `_ring`; it calls `slow` for the rest."""

    def put(self, data=None, *, kind="", order=0, block=True, timeout=None):
        ring = self._ring
        if type(ring) is Ring and _put_message(ring, data, kind, order, block, timeout, cls):
            return self
        return slow(self, data, kind=kind, order=order, block=block, timeout=timeout)

    return update_wrapper(put, slow)
