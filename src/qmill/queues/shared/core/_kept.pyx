# cython: language_level=3, freethreading_compatible=True, embedsignature=True, binding=False
"""Writes and reads small results with the codec.

`qmill.engines.process.kept_results` has the layout, and the rest. Only the steps of each call
of a map are here; the loops around them are Python.
"""

import copyreg

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

include "_codec.pxi"

cdef extern from *:
    """
    /* Release: a reader that sees the number sees all bytes written before. */
    #define publish(where, value) __atomic_store_n(where, value, __ATOMIC_RELEASE)
    """
    void publish(uint64_t *, uint64_t) nogil

cdef enum:
    USED = 1  # words of the head
    COUNT = 2
    HEAD_BYTES = 32
    BLOB_BYTES = 5  # a tag and a length
    CODEC = 99  # 'c'
    PACKED = 112  # 'p'
    ERROR = 101  # 'e'


cdef bint _is_scalar(obj):
    cls = type(obj)
    return (
        cls is int or cls is str or cls is float or obj is None or cls is bool or cls is bytes
    )


cdef class Writer:
    """Writes results into memory.

    Args:
        memory: A head of four words, then room for results.
        sent: The keys of the definitions that the reader has.
        slow: Is called with a result that is not for the codec.
    """

    cdef codec *codec
    cdef Py_buffer memory
    cdef uint64_t *head
    cdef uint8_t *start
    cdef uint8_t *end
    cdef object slow

    def __cinit__(self, memory, sent, slow):
        self.codec = NULL
        PyObject_GetBuffer(memory, &self.memory, PyBUF_WRITABLE)
        if self.memory.len < HEAD_BYTES:
            raise ValueError("the memory has no room for its head")
        self.head = <uint64_t *>self.memory.buf
        self.start = <uint8_t *>self.memory.buf + HEAD_BYTES
        self.end = <uint8_t *>self.memory.buf + self.memory.len
        self.slow = slow
        self.codec = codec_new(sent, copyreg.dispatch_table, {}, None)

    def __dealloc__(self):
        codec_free(self.codec)
        if self.memory.obj is not None:
            PyBuffer_Release(&self.memory)

    def keep(self, obj):
        """Write a result."""
        cdef uint8_t *at = self._at()
        cdef uint8_t *after = NULL
        if _is_scalar(obj):
            after = codec_write(self.codec, at, self.end, obj)
        elif self.end - at > BLOB_BYTES:
            after = _encode(self.codec, obj, at + BLOB_BYTES, self.end)
            if after != NULL:
                _write_head(at, CODEC, after - at - BLOB_BYTES)
        if after == NULL:
            self.slow(obj)
        else:
            self._publish(after)

    def write(self, uint8_t tag, data):
        """Write packed bytes with a tag; False if there is no room."""
        cdef uint8_t *at = self._at()
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if self.end - at < BLOB_BYTES + view.len:
                return False
            _write_head(at, tag, view.len)
            memcpy(at + BLOB_BYTES, view.buf, view.len)
            self._publish(at + BLOB_BYTES + view.len)
            return True
        finally:
            PyBuffer_Release(&view)

    cdef uint8_t *_at(self) noexcept:
        """Return the address after the results so far, or the end of the memory."""
        cdef uint64_t used = self.head[USED]
        return self.start + used if used < <uint64_t>(self.end - self.start) else self.end

    cdef void _publish(self, uint8_t *after) noexcept:
        self.head[COUNT] += 1
        publish(&self.head[USED], after - self.start)


cdef void _write_head(uint8_t *at, uint8_t tag, Py_ssize_t size) noexcept:
    cdef uint32_t length = size
    at[0] = tag
    memcpy(at + 1, &length, 4)


cdef class Reader:
    """Reads results.

    Args:
        classes: A dict for the classes of instances; see `_codec.h`.
        resolve: Called with the name of a class, which it puts there and returns.
    """

    cdef codec *codec

    def __cinit__(self, classes, resolve):
        self.codec = codec_new(set(), {}, classes, resolve)

    def __dealloc__(self):
        codec_free(self.codec)

    def read(self, data, rebuild):
        """Read results.

        Args:
            data: The written bytes, without the head.
            rebuild: Called as `rebuild(tag, packed)` for a result that is not the codec's, and, for
                one of the codec's that cannot be read, with the exception in place of the bytes.

        Raises:
            RuntimeError: The data is damaged.
        """
        cdef Py_buffer view
        cdef const uint8_t *at
        cdef const uint8_t *end
        cdef uint32_t size
        cdef uint8_t tag
        cdef list results = []
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            at = <const uint8_t *>view.buf
            end = at + view.len
            while at < end:
                tag = at[0]
                if tag != CODEC and tag != PACKED and tag != ERROR:
                    results.append(codec_read(self.codec, &at, end))
                    continue
                if end - at < BLOB_BYTES:
                    raise RuntimeError("a result is cut off")
                memcpy(&size, at + 1, 4)
                at += BLOB_BYTES
                if <uint64_t>(end - at) < size:
                    raise RuntimeError("a result is cut off")
                if tag == CODEC:
                    results.append(self._read_object(at, at + size, rebuild))
                else:
                    packed = PyBytes_FromStringAndSize(<const char *>at, size)
                    results.append(rebuild(tag, packed))
                at += size
            return results
        finally:
            PyBuffer_Release(&view)

    cdef object _read_object(self, const uint8_t *at, const uint8_t *end, rebuild):
        try:
            return codec_read(self.codec, &at, end)
        except Exception as error:  # a class cannot be found here
            return rebuild(CODEC, error)
