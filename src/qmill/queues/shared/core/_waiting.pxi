"""Waits for the locks and events of a ring, and raises the errors of its calls."""

import errno

from cpython.exc cimport PyErr_CheckSignals

from ....errors import QueueGone

cdef double SLICE_S = 0.1
cdef enum:
    LOOKS = 4  # tries while other callers take the message or room first; then the caller sleeps
    LOGGED_AFTER_TRIES = 10  # of SLICE_S each
    LEAVE_TRIES = 10  # after these, a sweep of another process does it when this one has ended

cdef struct Tries:  # of a call that has to wait while another thread has a lock
    q_status status
    int held_up  # how often it had to wait; below 0 before the first try

cdef Tries UNTRIED = Tries(Q_BUSY, -1)


cdef double _now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef double _deadline(object wait) except? -1:
    """Return when a wait is over: 0 for one that does not wait, infinity for None."""
    if wait is None:
        return INFINITY
    return _now() + <double>wait if wait else 0


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
        raise RuntimeError(
            "the queue's shared memory is damaged: another program has written to it"
        )
    raise OSError(f"the queue's shared memory failed with status {int(status)}")


cdef inline bint _is_done(q_status status) except -1:
    """Whether a call has done its work; False if there was nothing to do, or it was given up."""
    if status == Q_OK:
        return True
    return False if status == Q_EMPTY or status == Q_BUSY else _fail(status)


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


cdef object _held_up(Ring ring, int *tries):
    """Run signal handlers while another thread has a lock; return a text if that is stopped."""
    cdef unsigned i
    PyErr_CheckSignals()
    tries[0] += 1
    for i in range(3):
        holder = q_holder(ring.q, i)
        if holder and (told := _told_if_stopped(holder)) is not None:
            if tries[0] == LOGGED_AFTER_TRIES:
                import logging

                logging.getLogger("qmill").warning("%s", told)
            return told
    return None


cdef inline bint _try_again(Ring ring, Tries *tries, bint surely=True) except -1:
    """Whether to make a call, first or again: until no other thread has a lock that it needs.

    If not `surely`, it is given up when a stopped process holds the lock for long.
    """
    if tries.status != Q_BUSY:
        return False
    if tries.held_up < 0:
        tries.held_up = 0
        return True
    return not (_held_up(ring, &tries.held_up) and not surely and tries.held_up >= LEAVE_TRIES)


cdef bint _watch(Ring ring, q_event event) noexcept:
    """Poll for a few microseconds; return whether the message or room may be there now."""
    cdef bint seen
    with nogil:
        seen = q_watch(ring.q, event)
    return seen


cdef int _sleep(Ring ring, q_event event, uint32_t sequence, double deadline) except -1:
    """Sleep until an event, a signal or the end of a slice; settle messages of dead processes."""
    cdef double left = min(SLICE_S, deadline - _now())
    cdef int64_t nanoseconds
    if left > 0:
        PyErr_CheckSignals()  # a signal may have come since the last check
        nanoseconds = <int64_t>(left * 1e9)
        with nogil:
            q_sleep(ring.q, event, sequence, nanoseconds)
            q_sweep(ring.q, 1, 1)
        _tell_aside(ring)
    PyErr_CheckSignals()
    return 0


cdef bint _is_late(Ring ring, q_status status, q_event event, uint32_t sequence, double deadline,
                   int *tries, bint quietly=False) except -1:
    """Wait until a call that returned a status can be made again; return whether time is up.

    If it is up and a stopped process holds a lock, raise Full or Empty with a text about that; not
    if `quietly`.
    """
    if status == Q_BUSY:
        told = _held_up(ring, tries)
        if _now() < deadline if deadline else told is None:
            return False
        if told is None or quietly:
            return True
        raise Full(told) if event == Q_SPACE else Empty(told)
    if status != Q_EMPTY and status != Q_FULL and status != Q_NOT_YET:
        return _fail(status)
    if _now() >= deadline:
        return True
    _sleep(ring, event, sequence, deadline)
    return False
