"""Iterates over the messages of a ring, each under a lease until the next is asked for."""

from sys import is_finalizing

from libc.string cimport memcmp

from ...leases import NOTHING, begin, leave


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

    cdef bint is_own(self) noexcept:
        """Whether this process has begun the loop: a forked child has not."""
        return self.number and self.generation == q_fork_generation()

    cdef uint64_t finish(self) except? 0:
        """Put the message out of hand, and return its lease, which the caller then ends."""
        cdef uint64_t lease = self.lease
        self.lease = 0
        self.given = NOTHING
        return lease

    def done(self):
        """Acknowledge the message in hand; the loop goes on."""
        cdef uint64_t lease = self.finish()
        if lease and self.is_own():
            self.ring.lease_done(self.number, lease)

    def release(self, double delay):
        """Give back the message in hand; False if this process does not hold it."""
        cdef uint64_t lease = self.finish()
        return bool(lease) and self.is_own() and self.ring.lease_release(self.number, lease, delay)

    def end(self):
        """End the loop, and acknowledge the message in hand."""
        cdef uint32_t number = self.number
        cdef uint64_t lease
        self.number = 0
        lease = self.finish()
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
        cdef bint has_next = False
        cdef bint is_unread = False  # whether the leased message has not been given to the loop
        cdef _Hold hold = self.hold
        if self.is_over:
            raise StopIteration
        try:
            if self.ring.left:
                acknowledge(self.ring.left)
            if not hold.is_own():
                hold.begin()  # a forked child begins anew
            elif hold.lease:
                has_next = q_next(self.ring.q, hold.number, hold.lease, &item, 0) == Q_OK
                if not has_next:
                    self.ring.lease_done(hold.number, hold.lease)
            if not has_next:
                hold.lease = 0
                hold.given = NOTHING
                _take(self.ring, hold.number, &item, 1, &number, None)
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
            if is_unread and (not isinstance(error, Exception) or _goes_back(error)):
                hold.lease = 0  # so that it goes back
            self._end()
            raise

    cdef object _message(self, q_item *item):
        cdef const uint8_t *data = <const uint8_t *>item.data
        cdef const uint8_t *at = data + 2
        cdef const uint8_t *end
        cdef PyTypeObject *cls = <PyTypeObject *>self.cls
        if self.cls is None:
            return _unpack(self.ring, item)
        if item.size > PLAIN_BYTES and not memcmp(data, PLAIN_PREFIX, PLAIN_BYTES):
            found = _unpack(self.ring, item, PLAIN_BYTES)
            return codec_make(cls, self.members, found, "", 0)
        end = data + _prefix(data, item.size)
        if end > data:
            kind = codec_read(self.ring.codec, &at, end)
            order = codec_read(self.ring.codec, &at, end)
            found = _unpack(self.ring, item, end - data)
            return codec_make(cls, self.members, found, kind, order)
        found = _unpack(self.ring, item)
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


tell_leaving(<PyTypeObject *>Messages, <PyTypeObject *>Loop)
