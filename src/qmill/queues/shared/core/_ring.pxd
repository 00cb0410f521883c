# The functions of C that `_ring.pyx` and its parts call, as `ring.h` and others declare them.

from cpython.object cimport PyTypeObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1
    unsigned long PyThread_get_thread_ident()

cdef extern from "_leaving.h":
    int left_by_exception
    void tell_leaving(PyTypeObject *messages, PyTypeObject *loop)

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
    int packs_quickly  # whether this thread is in the fast path of `_pack`

cdef extern from *:
    """
    static int enter_once(int *busy) { return !__atomic_exchange_n(busy, 1, __ATOMIC_ACQUIRE); }
    static void leave_again(int *busy) { __atomic_store_n(busy, 0, __ATOMIC_RELEASE); }
    """
    bint enter_once(int *)
    void leave_again(int *)
