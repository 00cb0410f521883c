"""Declares `_codec.h`, and makes classes known to a codec; both compiled modules include this."""

from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t, uint8_t

from ....packing import definitions

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

cdef enum:
    MAX_CLASSES = 8  # the most that one object makes known to the codec


cdef uint8_t *_encode(codec *writer, object obj, uint8_t *at, uint8_t *end) except? NULL:
    """Write an object with the codec; NULL if the codec refuses it."""
    cdef uint8_t *after = codec_write(writer, at, end, obj)
    cdef PyTypeObject *missing
    cdef int tries = 0
    while after == NULL and writer.missing != NULL and tries < MAX_CLASSES:
        missing = writer.missing
        cls = <object>missing
        if not codec_learn(writer, missing, definitions.plan_of(cls)):
            break
        after = codec_write(writer, at, end, obj)
        tries += 1
    return after
