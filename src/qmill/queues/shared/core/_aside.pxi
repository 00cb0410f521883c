"""Finds, shows and logs the messages that were set aside, as they seem to kill their readers."""


cdef bytes _look_aside(Ring ring, uint64_t skip, q_mark mark, q_aside *found):
    """Return the bytes of a message that was set aside, and mark it; None if there is none."""
    cdef bytearray copy = bytearray(256)
    cdef Tries tries
    while True:
        found.into = <char *>copy
        found.capacity = len(copy)
        tries = UNTRIED
        while _try_again(ring, &tries):
            with nogil:
                tries.status = q_look_aside(ring.q, skip, mark, found, 1)
        if not _is_done(tries.status):
            return None
        if found.size <= found.capacity:
            return PyBytes_FromStringAndSize(copy, found.size)
        copy = bytearray(found.size)


cdef int _tell_aside(Ring ring) except -1:
    """Log messages that were set aside and are not logged yet, if this process set one aside."""
    cdef q_aside found
    cdef bytes copy
    if q_newly_aside(ring.q):
        from ...leases import log_set_aside

        while (copy := _look_aside(ring, 0, Q_LOGGED, &found)) is not None:
            log_set_aside(ring.name, _shown(ring, copy), found.deaths)
    return 0


cdef object _shown(Ring ring, bytes data):
    """Show a message in brief, without running its code, which may have killed its readers."""
    cdef const uint8_t *start
    cdef const uint8_t *at
    cdef codec *plain
    _load_packing()
    if data[:1] == b"m":
        data = data[data[1]:]
    if data[:1] == b"b":
        return explain.describe(data[1:])
    if data[:1] == b"s":
        return explain.describe(data[1:].decode())
    if data[0] < 4 or data[0] == 0x80:
        return explain.shown(data)
    plain = codec_new(ring.exported, copyreg.dispatch_table, {}, _refuse)
    at = start = <const uint8_t *>PyBytes_AS_STRING(data)
    try:
        return explain.describe(codec_read(plain, &at, at + len(data)))
    except Exception:
        return "an instance of " + _class_name(start, len(data))
    finally:
        codec_free(plain)


def _refuse(name):
    """Find no class: a codec with this reads built-in types only."""
    raise LookupError(name)
