"""Takes messages out of a ring, and rebuilds their objects."""

from sys import modules

from cpython.buffer cimport PyBUF_READ, PyBuffer_FillInfo
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.unicode cimport PyUnicode_DecodeUTF8

from ....system.interrupts import is_interrupt, let_interrupt_through

cdef object _unpickle = pickling.loads


@cython.no_gc_clear  # it needs its ring until it is freed; other objects of a cycle break the cycle
cdef class Block:
    """The memory of one large message; it is given back when this object is freed."""

    cdef Ring ring
    cdef q_lent lent  # set once its message is done
    cdef void *data
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)

    def __releasebuffer__(self, Py_buffer *view):
        pass

    def __dealloc__(self):
        if self.lent.block:
            with nogil:  # if that fails now, the block is freed when this process has ended
                q_lent_back(&self.lent)


cdef Block _block(Ring ring, q_item *item, uint64_t before):
    """Return the memory of a message, without the bytes before a place; `q_lend` makes it last."""
    cdef Block block = Block()
    block.ring = ring
    block.data = <uint8_t *>item.data + before
    block.size = item.size - before
    return block


cdef int _take(Ring ring, uint32_t reader, q_item *items, size_t limit, size_t *number,
               object wait) except -1:
    """Take up to `limit` messages; `number` is 0 when time is up."""
    cdef q_status status = q_take(ring.q, reader, items, limit, number, 0)
    cdef double deadline
    cdef uint32_t sequence
    cdef int tries = 0, i
    cdef bint tells
    if status == Q_OK:
        return 0
    deadline = _deadline(wait)
    # While messages come during these looks, the caller need not announce that it sleeps.
    for i in range(LOOKS):
        if status != Q_EMPTY or not deadline or not _watch(ring, Q_ITEMS):
            break
        status = q_take(ring.q, reader, items, limit, number, 0)
    if status == Q_OK:
        return 0
    tells = reader and deadline
    if tells:
        q_reader_waits(ring.q, reader, 1)
    try:
        while status != Q_OK:
            sequence = q_announce(ring.q, Q_ITEMS)
            with nogil:
                status = q_take(ring.q, reader, items, limit, number, 1)
            if status == Q_OK:
                break
            if _is_late(ring, status, Q_ITEMS, sequence, deadline, &tries):
                number[0] = 0
                break
            status = q_take(ring.q, reader, items, limit, number, 0)
    finally:
        if tells:
            q_reader_waits(ring.q, reader, 0)
    return 0


cdef void _give_back(Ring ring, q_item *items, size_t first, size_t number) noexcept:
    cdef size_t i
    cdef q_status status
    for i in range(first, number):
        status = Q_BUSY
        while status == Q_BUSY:
            with nogil:
                status = q_give_back(ring.q, &items[i], 1)


cdef int _finish(Ring ring, q_item *item, bint frees) except -1:
    """Finish a record; it `frees` a block that no object uses."""
    cdef Tries tries = UNTRIED
    cdef bint is_large = item.kind == Q_BLOCK
    tries.status = q_done(ring.q, item, 0)
    if tries.status != Q_OK:
        while _try_again(ring, &tries):
            with nogil:
                tries.status = q_done(ring.q, item, 1)
        _is_done(tries.status)
    if is_large and frees:
        with nogil:
            q_block_free(ring.q, item.block, 1)
    return 0


cdef bint _shares_globals() except -1:
    """Whether the functions that are rebuilt here share their globals by their modules."""
    if serialize is None:
        if "qmill.packing.function_globals" not in modules:
            return False
        _load_packing()  # a worker of jobs has loaded it, and decides this there
    return function_globals.shared_globals is not None


cdef object _loads(Ring ring, data):
    """Rebuild an object that plain pickle may not be enough for."""
    _load_packing()
    return serialize.loads(data, ring)


cdef bint _goes_back(error) except -1:
    """Whether a message waits again after an error which is not that of its object."""
    return isinstance(error, MemoryError) or is_interrupt(error)


cdef list _get_many(Ring ring, size_t limit, object wait):
    """Take up to `limit` messages, and rebuild their objects; raise Empty if time is up."""
    cdef size_t number = 0, i = 0, finished = 0
    cdef int64_t value
    cdef const uint8_t *data
    cdef list objects = []
    cdef q_item *items = <q_item *>PyMem_Malloc(limit * sizeof(q_item))
    if items == NULL:
        raise MemoryError
    try:
        _take(ring, 0, items, limit, &number, wait)
        if not number:
            raise Empty
        try:
            while i < number:
                data = <const uint8_t *>items[i].data
                if codec_read_int(data, data + items[i].size, &value):
                    objects.append(codec_new_int(value))
                else:
                    objects.append(_unpack(ring, &items[i]))
                i += 1
        except BaseException as error:
            if not isinstance(error, Exception) or is_interrupt(error):
                _give_back(ring, items, 0, number)
                i = 0
                raise
            # If there are objects before it, the next call is to raise.
            if not objects and not isinstance(error, MemoryError):
                i = 1
            _give_back(ring, items, i, number)
            if not objects:
                raise
        finally:  # only now: until here all of them can be given back
            while finished < i:
                finished += q_done_many(ring.q, &items[finished], i - finished)
                if finished < i and items[finished].kind == Q_BLOCK:
                    _finish(ring, &items[finished], True)
                finished += 1
    finally:
        PyMem_Free(items)
    return objects


cdef object _unpack_and_finish(Ring ring, q_item *item):
    """Rebuild the object, then finish the record: it is given back if a signal comes between."""
    cdef const uint8_t *data = <const uint8_t *>item.data
    cdef Block block = None
    cdef Py_ssize_t before = 0
    cdef bint is_over = True
    try:
        if item.kind == Q_BLOCK:
            before = _prefix(data, item.size)
            if data[before] < 4 or data[before] == 0x80:  # the buffers of its object stay in it
                block = _block(ring, item, before)
        if block is None:
            return _unpack(ring, item)
        found = _loads(ring, memoryview(block))
        return _with_kind(ring, data, found) if before else found
    except BaseException as error:
        if _goes_back(error):
            is_over = False
            _give_back(ring, item, 0, 1)  # it waits for another call, or another reader
        raise
    finally:
        if is_over:
            _finish(ring, item, block is None)
            if block is not None:
                q_lend(ring.q, item, &block.lent)  # it is free when no object uses it


cdef object _unpack(Ring ring, q_item *item, uint64_t skip=0):
    """Rebuild the object; `skip` bytes at the beginning were read before."""
    cdef const uint8_t *data = <const uint8_t *>item.data + skip
    cdef const uint8_t *at = data
    cdef Py_ssize_t size = item.size - skip, before
    cdef int64_t number
    if item.kind == Q_END:
        return END
    if size < 1:
        raise RuntimeError("the queue's shared memory is damaged: an empty message")
    cdef uint8_t tag = data[0]
    if codec_read_int(data, data + size, &number):
        return codec_new_int(number)
    if tag == c'm':
        before = _prefix(data, size)
        if not before:
            raise RuntimeError("the queue's shared memory is damaged: an empty message")
        return _with_kind(ring, data, _unpack(ring, item, skip + before))
    if tag < 4 or (tag == 0x80 and (item.kind != Q_INLINE or _shares_globals())):
        return _loads(ring, PyByteArray_FromStringAndSize(<const char *>data, size))
    if tag == 0x80:
        view = PyMemoryView_FromMemory(<char *>data, size, PyBUF_READ)
        try:
            return _unpickle(view)
        except MemoryError:
            raise
        except BaseException as error:
            copy = bytes(view)
            let_interrupt_through(error)
            return _loads(ring, copy)
        finally:
            view.release()
    try:
        if tag == c'b':
            return _copy(&data[1], size - 1)
        if tag == c's':
            return PyUnicode_DecodeUTF8(<const char *>&data[1], size - 1, "strict")
        return codec_read(ring.codec, &at, data + size)
    except (SerializationError, MemoryError):
        raise
    except BaseException as error:  # a class cannot be imported here
        let_interrupt_through(error)
        _load_packing()
        raise serialize.not_rebuilt(_class_name(data, size), error) from error


cdef object _unpack_copy(Ring ring, const char *data, uint64_t size):
    """Rebuild the object of a message that was copied."""
    cdef q_item item
    item.kind = Q_INLINE
    item.data = data
    item.size = size
    return _unpack(ring, &item)


cdef Py_ssize_t _prefix(const uint8_t *data, Py_ssize_t size) noexcept:
    """Return how many bytes of a message are its kind and order; 0 if it has none."""
    return data[1] if size > 2 and data[0] == c'm' and data[1] < size else 0


cdef object _with_kind(Ring ring, const uint8_t *data, found):
    """Return the data, kind and order of a message of `qmill.Q`."""
    cdef const uint8_t *at = data + 2
    kind = codec_read(ring.codec, &at, data + data[1])
    order = codec_read(ring.codec, &at, data + data[1])
    return found, kind, order


cdef bytes _copy(const uint8_t *data, Py_ssize_t size):
    cdef bytes copy = PyBytes_FromStringAndSize(NULL, size)
    cdef char *into = PyBytes_AS_STRING(copy)
    if size < 1 << 16:
        memcpy(into, data, size)
    else:
        with nogil:
            memcpy(into, data, size)
    return copy


cdef str _class_name(const uint8_t *data, Py_ssize_t size):
    """Name the class of an instance that the codec has written."""
    cdef bytes name
    if data[0] != c'o' or size < 2 or size < data[1] + 2:
        return "unknown (the data is damaged)"
    name = data[2:2 + data[1]]
    if name[:1] == b"K":
        return "__main__." + name[17:].decode(errors="replace")
    return name[1:].decode(errors="replace").replace("\n", ".")
