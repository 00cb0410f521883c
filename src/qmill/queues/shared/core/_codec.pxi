"""Declares `_codec.h`, and makes classes known to a codec; both compiled modules include this."""

from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t, uint8_t

from ....system import native


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


# The modules of `packing`, of which plain data needs none; None until `_load_packing` is called.
cdef object definitions = None, explain = None, function_globals = None
cdef object serialize = None, standard_library = None


cdef int _load_packing() except -1:
    """Import the modules of `packing`: a queue of plain data starts without them."""
    global definitions, explain, function_globals, serialize, standard_library
    if serialize is None:
        load = native.load
        definitions = load("qmill.packing.definitions")
        explain = load("qmill.packing.explain")
        function_globals = load("qmill.packing.function_globals")
        standard_library = load("qmill.packing.standard_library")
        serialize = load("qmill.packing.serialize")  # last, as other threads look at it
    return 0


cdef uint8_t *_encode(codec *writer, object obj, uint8_t *at, uint8_t *end) except? NULL:
    """Write an object with the codec; NULL if the codec refuses it."""
    cdef uint8_t *after = codec_write(writer, at, end, obj)
    cdef PyTypeObject *missing
    cdef int tries = 0
    while after == NULL and writer.missing != NULL and tries < MAX_CLASSES:
        missing = writer.missing
        cls = <object>missing
        _load_packing()
        if not codec_learn(writer, missing, definitions.plan_of(cls)):
            break
        after = codec_write(writer, at, end, obj)
        tries += 1
    return after
