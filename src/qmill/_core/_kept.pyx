# cython: language_level=3, freethreading_compatible=True, embedsignature=True, binding=False
"""Writes and reads small results with the codec; `qmill.engines._kept` has the layout, and the rest.

No more than what each call of a map needs: the loops around it are Python.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        pass

cdef extern from "_codec.h":
    ctypedef struct codec:
        PyTypeObject *missing
    codec *codec_new(object, object, object, object) except NULL
    void codec_free(codec *)
    uint8_t *codec_write(codec *, uint8_t *, uint8_t *, object)
    object codec_read(codec *, const uint8_t **, const uint8_t *)

cdef extern from *:
    """
    /* Whoever sees the number sees what was written before. */
    #define publish(where, value) __atomic_store_n(where, value, __ATOMIC_RELEASE)
    """
    void publish(uint64_t *, uint64_t) nogil

cdef enum:
    USED = 1  # words of the head
    COUNT = 2
    HEAD_BYTES = 32
    BLOB_BYTES = 5  # a tag and a length
    PACKED = 112  # 'p'
    ERROR = 101  # 'e'


cdef class Writer:
    """Writes results into memory.

    Args:
        memory: A head of four words, then room for results.
        slow: Is called with what is not for the codec.
    """

    cdef codec *codec
    cdef Py_buffer memory
    cdef uint64_t *head
    cdef uint8_t *start
    cdef uint8_t *end
    cdef object slow

    def __cinit__(self, memory, slow):
        self.codec = NULL
        PyObject_GetBuffer(memory, &self.memory, PyBUF_WRITABLE)
        if self.memory.len < HEAD_BYTES:
            raise ValueError("the memory has no room for its head")
        self.head = <uint64_t *>self.memory.buf
        self.start = <uint8_t *>self.memory.buf + HEAD_BYTES
        self.end = <uint8_t *>self.memory.buf + self.memory.len
        self.slow = slow
        # Without plans it writes no instances: these, as all else, are for `slow`.
        self.codec = codec_new(set(), {}, {}, None)

    def __dealloc__(self):
        codec_free(self.codec)
        if self.memory.obj is not None:
            PyBuffer_Release(&self.memory)

    def keep(self, obj):
        """Write a result."""
        cdef uint64_t used = self.head[USED]
        cdef uint8_t *after = NULL
        if used <= <uint64_t>(self.end - self.start):  # a job may have written there
            after = codec_write(self.codec, self.start + used, self.end, obj)
        if after == NULL:
            self.slow(obj)
            return
        self.head[COUNT] += 1
        publish(&self.head[USED], after - self.start)


cdef class _Reader:
    """A codec that frees itself."""

    cdef codec *codec

    def __cinit__(self):
        self.codec = codec_new(set(), {}, {}, None)

    def __dealloc__(self):
        codec_free(self.codec)


cdef _Reader _reader = _Reader()


def read(data, rebuild):
    """Read results.

    Args:
        data: What was written, without the head.
        rebuild: Called as `rebuild(tag, packed)` for what is not the codec's.

    Raises:
        RuntimeError: The data is damaged.
    """
    cdef Py_buffer view
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef uint32_t size
    cdef list results = []
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        at = <const uint8_t *>view.buf
        end = at + view.len
        while at < end:
            if at[0] != PACKED and at[0] != ERROR:
                results.append(codec_read(_reader.codec, &at, end))
                continue
            if end - at < BLOB_BYTES:
                raise RuntimeError("a packed result is cut off")
            memcpy(&size, at + 1, 4)
            if <uint64_t>(end - at - BLOB_BYTES) < size:
                raise RuntimeError("a packed result is cut off")
            tag = at[0]
            at += BLOB_BYTES + size
            results.append(rebuild(tag, PyBytes_FromStringAndSize(<char *>at - size, size)))
        return results
    finally:
        PyBuffer_Release(&view)
