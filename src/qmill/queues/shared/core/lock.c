/* Locks, the journals of the changes under them, and events to sleep for. */
#include "core.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
#define pause_cpu() __builtin_ia32_pause()
#else
#define pause_cpu() ((void)0)
#endif

#define LOCK_SLICE_NS 100000000L
#define WATCH_NS 20000

static q_status recover(q_queue *q, struct lock *lock) {
    uint32_t number = atomic_load_explicit(&lock->number, memory_order_acquire);
    if (number & TAKING) {
        struct side *s = &q->h->gets;
        uint64_t note = get(&position(s)->note), taker = note % MAX_SLOTS;
        if (number == (TAKING | (uint32_t)get(&s->version)) && taker)
            set(&q->h->slots[taker].taken, note / MAX_SLOTS);
        number = 0;
    }
    if (number > JOURNAL_ENTRIES) return Q_CORRUPT;
    if (number && lock == &q->h->put) {
        /* Consumers go on as soon as they see the last word of a put: later changes of its blocks must
         * not be undone. The last word never has the same value twice, so if it has this one, the
         * change is complete. */
        const struct entry *last = &lock->journal[number - 1];
        const word *w = last->address % 8 ? NULL : at(q, last->address, 8);
        if (w && get(w) == last->value) number = 0;
    }
    for (uint32_t i = 0; i < number; i++) {
        word *w = lock->journal[i].address % 8 ? NULL : at(q, lock->journal[i].address, 8);
        if (!w) return Q_CORRUPT;
        set(w, lock->journal[i].value);
        POINT(5);
    }
    atomic_store_explicit(&lock->number, 0, memory_order_release);
    POINT(6);
    return Q_OK;
}

#ifdef __SANITIZE_THREAD__ /* gcc 12's does not know pthread_mutex_clocklock */
#define timed_lock(mutex, until) pthread_mutex_lock(mutex)
#else
#define timed_lock(mutex, until) pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, until)
#endif

/* Go on after a try to lock that gave an error, or found something to finish. */
q_status take_held_lock(q_queue *q, struct lock *lock, int error, int patient) {
    if (unlikely(error == EBUSY)) {
        /* Each try takes the cache line from the thread that holds the lock; without tries, that does
         * dozens of operations in the time of some. So there are few: after 2, 7 and 16 us here. */
        for (int pauses = 128; pauses <= 512 && error == EBUSY; pauses *= 2) {
            for (int i = 0; i < pauses; i++) pause_cpu();
            error = pthread_mutex_trylock(&lock->mutex);
        }
        if (error == EBUSY && patient) {
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_nsec += LOCK_SLICE_NS;
            if (until.tv_nsec >= 1000000000L) {
                until.tv_nsec -= 1000000000L;
                until.tv_sec++;
            }
            error = timed_lock(&lock->mutex, &until);
        }
    }
    if (error == EBUSY || error == ETIMEDOUT) return Q_BUSY;
    if (error == EOWNERDEAD) error = pthread_mutex_consistent(&lock->mutex);
    if (unlikely(error)) return Q_CORRUPT;
    q_status status = recover(q, lock);
    if (status != Q_OK) unlock(lock);
    return status;
}

q_status take_both(q_queue *q, int patient) {
    q_status status = take_lock(q, &q->h->put, patient);
    if (status != Q_OK) return status;
    status = take_lock(q, &q->h->get, patient);
    if (status != Q_OK) unlock(&q->h->put);
    return status;
}

void release_both(q_queue *q) {
    unlock(&q->h->get);
    unlock(&q->h->put);
}

uint32_t q_holder(const q_queue *q, unsigned number) {
    const struct lock *locks[] = {&q->h->put, &q->h->get, &q->h->allocate};
#ifdef __GLIBC__
    if (number < sizeof locks / sizeof *locks)
        return (uint32_t)__atomic_load_n(&locks[number]->mutex.__data.__lock, __ATOMIC_RELAXED) &
               FUTEX_TID_MASK;
#endif
    return (void)number, (void)locks, 0;
}

/* -- waiting ------------------------------------------------------------------------------------ */

static long futex(_Atomic uint32_t *at_word, int operation, uint32_t value,
                  const struct timespec *timeout) {
    return syscall(SYS_futex, at_word, operation, value, timeout, NULL, 0);
}

int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int has_news(const q_queue *q) {
    return num_records(&q->h->puts) != num_records(&q->h->gets) || get(&q->h->num_returned) ||
           get(&q->h->shut);
}

/* Each look takes the cache line from the threads that write to it. So the first look is a little
 * later (a pause takes some 20 ns): there is more to take then, or more room, and a round trip of a
 * message takes no longer. Between looks other threads may run: both sides may be on one processor. */
int q_watch(q_queue *q, q_event event) {
    for (int i = event == Q_ITEMS ? 30 : 100; i; i--) pause_cpu();
    for (int64_t until = now_ns() + WATCH_NS;;) {
        if (event == Q_ITEMS ? has_news(q) : !q_full(q)) return 1;
        if (now_ns() >= until) return 0;
        sched_yield();
    }
}

/* `waiters` grows with each sleeper. A waker that finds no sleeper sets it to 0: so it does not matter
 * that a killed sleeper cannot subtract itself. */
void wake_sleepers(q_queue *q, q_event number, uint32_t waiters, uint64_t how_many) {
    struct event *event = &q->h->events[number];
    atomic_fetch_add(&event->sequence, 1);
    int most = how_many > INT_MAX ? INT_MAX : (int)how_many;
    if (futex(&event->sequence, FUTEX_WAKE, (uint32_t)most, NULL) == 0)
        atomic_compare_exchange_strong(&event->waiters, &waiters, 0);
}

uint32_t q_announce(q_queue *q, q_event number) {
    struct event *event = &q->h->events[number];
    /* Before the increment: so a waker that sets `waiters` to 0 has changed the sequence since. */
    uint32_t sequence = atomic_load(&event->sequence);
    POINT(50);
    atomic_fetch_add(&event->waiters, 1); /* see wake */
    return sequence;
}

void q_sleep(q_queue *q, q_event number, uint32_t sequence, int64_t nanoseconds) {
    if (number == Q_ITEMS && get(&q->h->num_delayed)) {
        int64_t left = (int64_t)(get(&q->h->next_due_ms) * 1000000) - now_ns();
        if (left <= 0) return;
        if (left < nanoseconds) nanoseconds = left;
    }
    struct timespec timeout = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    futex(&q->h->events[number].sequence, FUTEX_WAIT, sequence, &timeout);
}
