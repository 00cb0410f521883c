#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifdef QMILL_POINTS
void (*q_at_point)(int number);
#define POINT(number) (q_at_point ? q_at_point(number) : (void)0)
#else
#define POINT(number) ((void)0)
#endif

#if defined(__x86_64__) || defined(__i386__)
#define pause_cpu() __builtin_ia32_pause()
#else
#define pause_cpu() ((void)0)
#endif

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define MAGIC UINT64_C(0x314c4c494d51)
#define VERSION 1u
#define CACHE_LINE 64
#define MAX_SEGMENTS 1024
#define MAX_SLOTS 4096
#define NUM_CLASSES 42
#define JOURNAL_ENTRIES 14
#define POISON_DEATHS 3
#define CHUNK_BYTES (UINT64_C(1) << 16)
#define INLINE_MAX (UINT64_C(16) << 10)
#define SMALL_SEGMENT_MAX (UINT64_C(64) << 20)
#define OWN_SEGMENT_BYTES (UINT64_C(8) << 20) /* blocks of so much have a segment of their own */
#define FALLOCATE_STEP (UINT64_C(4) << 20)    /* larger ones may restart for ever under signals */
#define KEPT_FREE_BYTES (UINT64_C(8) << 20)   /* of a class; what is beyond goes back to the system */
#define KEPT_BLOCK_MAX (UINT64_C(256) << 20) /* a larger one goes back though it be the only one */
#define LOCK_SLICE_NS 100000000L
#define SWEEP_INTERVAL_NS 90000000LL

/* -- what is in the file ------------------------------------------------------------------------
 *
 * An address is a segment's number and an offset in it: segments are mapped when first needed, and
 * never move. Segment 0 is the header.
 */

typedef _Atomic uint64_t word;

#define SEGMENT_SHIFT 40
#define OFFSET_MASK ((UINT64_C(1) << SEGMENT_SHIFT) - 1)

/* A change of several words under one lock. It happens when `number` is stored: before that there
 * is nothing, after that whoever locks next completes it. So no process can leave half a change. */
struct entry {
    uint64_t address, value;
};

struct lock {
    pthread_mutex_t mutex;
    _Atomic uint32_t number; /* of entries that are to be applied; 0 between changes */
    struct entry journal[JOURNAL_ENTRIES];
} __attribute__((aligned(CACHE_LINE)));

struct event {
    _Atomic uint32_t sequence, waiters;
} __attribute__((aligned(CACHE_LINE)));

struct segment {
    word offset, size, used;
};

enum { SLOT_FREE, SLOT_PROCESS, SLOT_READER, SLOT_LEFT };

struct slot {
    word kind_pid; /* kind | pid << 8 */
    word started;  /* of the process, in ticks since boot */
    word taken;    /* taken by get and not done */
    word leases;
    _Atomic uint32_t waiting;
} __attribute__((aligned(CACHE_LINE)));

struct header {
    uint64_t magic;
    uint32_t version, abi;
    uint8_t uuid[16];
    uint64_t uid, pid_namespace, maxsize, header_bytes;
    word shut; /* 1 shut down */
    word last_sweep_ns;

    /* Producers: `tail` is where the next record goes, in the chunk `tail_chunk`. `num_records`
     * publishes: records up to this count may be read by consumers. */
    struct lock put;
    word tail, tail_chunk, num_put, num_ends, definitions;
    word num_records __attribute__((aligned(CACHE_LINE)));

    /* Consumers: records before `cursor` were taken once; those before `oldest` are all finished.
     * `num_gone` counts messages that do not wait any more; producers look at it for room. */
    struct lock get;
    word cursor, num_seen, num_ends_gone, num_leased, num_taken_extra, num_done, num_lost,
        num_redelivered, num_poisoned, num_returned, num_set_aside, oldest, oldest_chunk,
        num_chunks, compact_at, num_slots;
    word num_gone __attribute__((aligned(CACHE_LINE)));

    struct lock allocate;
    word num_segments, file_bytes, bump;
    word free_block[NUM_CLASSES], num_free[NUM_CLASSES];

    struct event events[Q_NUM_EVENTS];
    struct segment segments[MAX_SEGMENTS];
    struct slot slots[MAX_SLOTS];
};

/* state: what | deaths << 8 | owner << 32. A record at or behind the cursor waits, whatever its
 * state says (a killed taker may have marked it), unless that is WITHDRAWN. */
enum { WAITING, LEASED, DONE, RETURNED, SET_ASIDE, WITHDRAWN };

struct record {
    uint32_t bytes; /* of all of it, a multiple of 8 */
    uint32_t kind_size; /* kind << 24 | size of what follows */
    word state; /* of a Q_LINK: the address of the next chunk */
};

struct large { /* what follows a Q_BLOCK record */
    uint64_t block, size;
};

struct end { /* what follows a Q_END record, and then its tag */
    uint64_t sender;
};

enum { BLOCK_FREE = 1, BLOCK_OWNED, BLOCK_QUEUED, BLOCK_CHUNK, BLOCK_DEFINITION };

struct block {
    uint64_t magic_class; /* MAGIC ^ class */
    word state;           /* what | owner << 32 */
    word next;            /* of a free one */
    word punched;         /* its memory has been given back */
    uint64_t reserved[4];
};

struct definition { /* what is in a BLOCK_DEFINITION, then key and data */
    uint64_t next;
    uint32_t key_size, reserved;
    uint64_t size;
};

/* -- this process's side ------------------------------------------------------------------------ */

struct q_queue {
    struct header *h;
    int fd;
    uint32_t slot;       /* this process's; 0 before it has one */
    uint32_t generation; /* of forks, when it got it */
    uint64_t pid;
    uint8_t *_Atomic base[MAX_SEGMENTS];
    word bytes[MAX_SEGMENTS];
};

static uint64_t here(const q_queue *q, const volatile void *p) {
    return (uint64_t)((const uint8_t *)p - (const uint8_t *)q->h);
}

static uint64_t get(const word *w) { return atomic_load_explicit(w, memory_order_acquire); }

static void set(word *w, uint64_t value) { atomic_store_explicit(w, value, memory_order_release); }

/* -- forks: a page that the kernel empties in a child ------------------------------------------- */

static _Atomic uint32_t *fork_page;
static _Atomic uint32_t fork_count = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void watch_forks(void) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) abort();
    if (madvise(page, 4096, MADV_WIPEONFORK)) abort();
    fork_page = page;
    *fork_page = 1;
}

uint32_t q_fork_generation(void) {
    if (unlikely(!fork_page)) pthread_once(&fork_once, watch_forks);
    /* Relaxed: only this process's own threads meet here, and a child begins with one. */
    if (unlikely(!atomic_load_explicit(fork_page, memory_order_relaxed))) {
        atomic_fetch_add(&fork_count, 1);
        atomic_store(fork_page, 1);
    }
    return atomic_load_explicit(&fork_count, memory_order_relaxed);
}

/* -- addresses ---------------------------------------------------------------------------------- */

static _Thread_local int has_no_room; /* a mapping was refused */

int q_had_no_room(void) {
    int had = has_no_room;
    has_no_room = 0;
    return had;
}

/* Without a lock, which a forked child might find held: of two threads one maps it in vain. */
static int map_segment(q_queue *q, unsigned number) {
    struct stat file;
    uint64_t offset = get(&q->h->segments[number].offset);
    uint64_t size = get(&q->h->segments[number].size);
    if (number >= get(&q->h->num_segments) || !size || fstat(q->fd, &file) ||
        size > (uint64_t)file.st_size || offset > (uint64_t)file.st_size - size || offset % 4096)
        return 0;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, q->fd, (off_t)offset);
    if (p == MAP_FAILED) {
        has_no_room = 1;
        return -1;
    }
    uint64_t unknown = 0;
    uint8_t *nothing = NULL;
    /* The first one's size counts, should the file change it meanwhile. */
    int is_first = atomic_compare_exchange_strong(&q->bytes[number], &unknown, size);
    if ((!is_first && unknown != size) ||
        !atomic_compare_exchange_strong(&q->base[number], &nothing, p)) /* release: with `at` */
        munmap(p, size);
    return atomic_load(&q->base[number]) != NULL;
}

/* The memory at an address, or NULL: nothing in the file is trusted to be right. */
static void *at(q_queue *q, uint64_t address, uint64_t bytes) {
    uint64_t number = address >> SEGMENT_SHIFT, offset = address & OFFSET_MASK;
    if (unlikely(number >= MAX_SEGMENTS)) return NULL;
    uint8_t *base = atomic_load_explicit(&q->base[number], memory_order_acquire);
    if (unlikely(!base)) {
        if (map_segment(q, (unsigned)number) != 1) return NULL;
        base = atomic_load(&q->base[number]);
    }
    uint64_t size = atomic_load_explicit(&q->bytes[number], memory_order_relaxed);
    if (unlikely(offset > size || bytes > size - offset)) return NULL;
    return base + offset;
}

static struct record *record_at(q_queue *q, uint64_t address) {
    struct record *r = address % 8 ? NULL : at(q, address, sizeof *r);
    if (unlikely(!r)) return NULL;
    uint32_t bytes = r->bytes, size = r->kind_size & 0xffffff;
    if (unlikely(bytes % 8 || bytes < sizeof *r || size > bytes - sizeof *r)) return NULL;
    return at(q, address, bytes);
}

static uint32_t kind_of(const struct record *r) { return r->kind_size >> 24; }

static struct block *block_at(q_queue *q, uint64_t address) {
    struct block *b = address % CACHE_LINE ? NULL : at(q, address, sizeof *b);
    if (unlikely(!b || (b->magic_class ^ MAGIC) >= NUM_CLASSES)) return NULL;
    return b;
}

static uint64_t class_bytes(unsigned number) {
    uint64_t bytes = CHUNK_BYTES << (number / 2);
    return number % 2 ? bytes + bytes / 2 : bytes;
}

static unsigned class_of(uint64_t bytes) {
    unsigned number = 0;
    while (number < NUM_CLASSES && class_bytes(number) < bytes) number++;
    return number;
}

/* -- locks and changes -------------------------------------------------------------------------- */

struct change {
    struct lock *lock;
    uint32_t number;
    word *words[JOURNAL_ENTRIES];
};

static void begin(struct change *c, struct lock *lock) {
    c->lock = lock;
    c->number = 0; /* and the words are not cleared: that would take as long as the rest */
}

static void plan(struct change *c, uint64_t address, word *w, uint64_t value) {
    struct entry *e = &c->lock->journal[c->number];
    e->address = address;
    e->value = value;
    c->words[c->number++] = w;
}

static void commit(struct change *c) {
    POINT(1);
    /* Pairs with the load in `recover`, and with those of everybody who reads the words. */
    atomic_store_explicit(&c->lock->number, c->number, memory_order_release);
    POINT(2);
    for (uint32_t i = 0; i < c->number; i++) {
        set(c->words[i], c->lock->journal[i].value);
        POINT(3);
    }
    atomic_store_explicit(&c->lock->number, 0, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst); /* no entry of the next change is written before */
    c->number = 0;
    POINT(4);
}

#define PLAN(change, member, value) plan(change, here(q, &(member)), &(member), value)

static q_status recover(q_queue *q, struct lock *lock) {
    uint32_t number = atomic_load_explicit(&lock->number, memory_order_acquire);
    if (number > JOURNAL_ENTRIES) return Q_CORRUPT;
    if (number && lock == &q->h->put) {
        /* Consumers go on as soon as they see the last word of a put: what became of its blocks
         * since must not be undone. The last word never has the same value twice, so it tells. */
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

static void unlock(struct lock *lock) { pthread_mutex_unlock(&lock->mutex); }

#ifdef __SANITIZE_THREAD__ /* gcc 12's does not know pthread_mutex_clocklock */
#define timed_lock(mutex, until) pthread_mutex_lock(mutex)
#else
#define timed_lock(mutex, until) pthread_mutex_clocklock(mutex, CLOCK_MONOTONIC, until)
#endif

static q_status take_lock(q_queue *q, struct lock *lock, int patient) {
    int error = pthread_mutex_trylock(&lock->mutex);
    if (unlikely(error == EBUSY)) {
        for (int i = 0; i < 100 && error == EBUSY; i++) {
            pause_cpu();
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
    /* The journal tells what is to be done, not the mutex: who fails here, say for want of memory
     * to map, leaves it to the next. */
    if (likely(!atomic_load_explicit(&lock->number, memory_order_acquire))) return Q_OK;
    q_status status = recover(q, lock);
    if (status != Q_OK) unlock(lock);
    return status;
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

/* `waiters` grows with each sleeper, and is set back by whoever wakes and finds nobody asleep: so
 * it does not matter that a killed sleeper cannot count itself out. */
static void wake(q_queue *q, q_event number, uint64_t how_many) {
    struct event *event = &q->h->events[number];
    /* Full, and pairs with the increment in q_announce: either we see the sleeper, or it sees what
     * we have just published. */
#if defined(__x86_64__) || defined(__i386__)
    atomic_signal_fence(memory_order_seq_cst); /* the unlock before was a locked instruction */
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
    uint32_t waiters = atomic_load_explicit(&event->waiters, memory_order_relaxed);
    if (likely(!waiters)) return;
    atomic_fetch_add(&event->sequence, 1);
    int most = how_many > INT_MAX ? INT_MAX : (int)how_many;
    if (futex(&event->sequence, FUTEX_WAKE, (uint32_t)most, NULL) == 0)
        atomic_compare_exchange_strong(&event->waiters, &waiters, 0);
}

uint32_t q_announce(q_queue *q, q_event number) {
    struct event *event = &q->h->events[number];
    /* First: who sets `waiters` back has then changed the sequence since. */
    uint32_t sequence = atomic_load(&event->sequence);
    POINT(50);
    atomic_fetch_add(&event->waiters, 1); /* see wake */
    return sequence;
}

void q_sleep(q_queue *q, q_event number, uint32_t sequence, int64_t nanoseconds) {
    struct timespec timeout = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    futex(&q->h->events[number].sequence, FUTEX_WAIT, sequence, &timeout);
}

int q_has_news(const q_queue *q) {
    return get(&q->h->num_records) != get(&q->h->num_seen) || get(&q->h->num_returned) ||
           get(&q->h->shut);
}

uint64_t q_size_hint(const q_queue *q) {
    uint64_t seen = get(&q->h->num_seen); /* first: the difference is never negative */
    return get(&q->h->num_records) - seen + get(&q->h->num_returned);
}

/* -- who takes part ----------------------------------------------------------------------------- */

#define UNKNOWN UINT64_MAX

/* When a process started, in ticks since boot; 0 if it is dead or a zombie, UNKNOWN if /proc cannot
 * be read now, say for want of a descriptor: a living one must not be taken for dead. */
static uint64_t start_of(uint64_t pid) {
    char path[40], text[1024];
    snprintf(path, sizeof path, "/proc/%llu/stat", (unsigned long long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT && !access("/proc/self/stat", F_OK) ? 0 : UNKNOWN;
    ssize_t size = read(fd, text, sizeof text - 1);
    int error = errno;
    close(fd);
    if (size <= 0) return size < 0 && error == ESRCH ? 0 : UNKNOWN;
    text[size] = 0;
    char *p = strrchr(text, ')'); /* the name may contain anything */
    if (!p || !p[1]) return UNKNOWN;
    char state = p[2];
    unsigned long long threads = 0, started = 0;
    if (sscanf(p + 3, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %*s %llu",
               &threads, &started) != 2)
        return UNKNOWN;
    /* If only its first thread has ended, it is shown as a zombie too. */
    return state == 'X' || (state == 'Z' && threads <= 1) ? 0 : started;
}

static q_status sweep(q_queue *q, int patient);

static q_status new_slot(q_queue *q, unsigned kind, uint32_t *slot) { /* under the get lock */
    struct header *h = q->h;
    uint64_t known = get(&h->num_slots);
    if (known > MAX_SLOTS) return Q_CORRUPT;
    for (uint32_t i = 1; i < MAX_SLOTS; i++) {
        struct slot *s = &h->slots[i];
        if (get(&s->kind_pid) & 0xff) continue;
        struct change c;
        begin(&c, &h->get);
        PLAN(&c, s->started, start_of(q->pid));
        PLAN(&c, s->taken, 0);
        PLAN(&c, s->leases, 0);
        PLAN(&c, s->kind_pid, kind | q->pid << 8);
        if (i >= known) PLAN(&c, h->num_slots, i + 1);
        atomic_store(&s->waiting, 0);
        commit(&c);
        *slot = i;
        return Q_OK;
    }
    return Q_NO_SLOT;
}

/* Take part, as this very process. A forked child is another one than its parent. */
static q_status take_part(q_queue *q, int patient) {
    uint32_t generation = q_fork_generation();
    if (likely(q->slot && q->generation == generation)) return Q_OK;
    for (int has_swept = 0;; has_swept = 1) {
        q_status status = take_lock(q, &q->h->get, patient);
        if (status != Q_OK) return status;
        if (q->generation != generation) {
            q->slot = 0;
            q->pid = (uint64_t)getpid();
            q->generation = generation;
        }
        if (!q->slot) {
            uint32_t slot = 0;
            status = new_slot(q, SLOT_PROCESS, &slot);
            if (status == Q_OK) q->slot = slot;
        }
        unlock(&q->h->get);
        if (status != Q_NO_SLOT || has_swept) return status;
        status = sweep(q, patient);
        if (status != Q_OK) return status;
    }
}

#define TAKE_PART(q, patient)                                                                      \
    do {                                                                                           \
        if (unlikely(!(q)->slot || (q)->generation != q_fork_generation())) {                      \
            q_status part = take_part(q, patient);                                                 \
            if (part != Q_OK) return part;                                                         \
        }                                                                                          \
    } while (0)

/* -- memory ------------------------------------------------------------------------------------- */

static q_status reserve(int fd, uint64_t offset, uint64_t bytes) {
    while (bytes) {
        uint64_t step = bytes < FALLOCATE_STEP ? bytes : FALLOCATE_STEP;
        if (fallocate(fd, 0, (off_t)offset, (off_t)step)) {
            if (errno == EINTR) continue;
            return Q_NO_MEMORY;
        }
        offset += step;
        bytes -= step;
    }
    return Q_OK;
}

static q_status new_segment(q_queue *q, uint64_t bytes, int is_bump) { /* under the allocate lock */
    struct header *h = q->h;
    uint64_t number = get(&h->num_segments), offset = get(&h->file_bytes), bump = get(&h->bump);
    struct stat file;
    if (number >= MAX_SEGMENTS || bytes > OFFSET_MASK) return Q_NO_MEMORY;
    if (fstat(q->fd, &file)) return Q_SYSTEM;
    if (offset % 4096) return Q_CORRUPT;
    bytes = (bytes + 4095) & ~UINT64_C(4095);
    if (reserve(q->fd, offset, bytes) != Q_OK) {
        (void)!ftruncate(q->fd, file.st_size); /* never shorter: all of that may be mapped */
        return Q_NO_MEMORY;
    }
    struct segment *s = &h->segments[number];
    struct change c;
    begin(&c, &h->allocate);
    PLAN(&c, s->offset, offset);
    PLAN(&c, s->size, bytes);
    PLAN(&c, s->used, 0);
    PLAN(&c, h->file_bytes, offset + bytes);
    if (is_bump) PLAN(&c, h->bump, number);
    PLAN(&c, h->num_segments, number + 1);
    commit(&c);
    if (map_segment(q, (unsigned)number) == 1) return Q_OK;
    /* We have no room for it, and nobody else knows of it yet: a try that fails leaves nothing. */
    PLAN(&c, h->num_segments, number);
    PLAN(&c, h->file_bytes, offset);
    if (is_bump) PLAN(&c, h->bump, bump);
    commit(&c);
    (void)!ftruncate(q->fd, file.st_size);
    return Q_NO_MEMORY;
}

static q_status carve(q_queue *q, unsigned class, uint64_t *address) { /* under the allocate lock */
    struct header *h = q->h;
    uint64_t bytes = class_bytes(class), number = get(&h->bump);
    if (number >= MAX_SEGMENTS) return Q_CORRUPT;
    if (bytes >= OWN_SEGMENT_BYTES) {
        number = get(&h->num_segments);
        q_status status = new_segment(q, bytes, 0);
        if (status != Q_OK) return status;
    } else if (!number || get(&h->segments[number].size) - get(&h->segments[number].used) < bytes) {
        uint64_t wanted = get(&h->file_bytes) / 2; /* at most half of it is reserved too early */
        if (wanted > SMALL_SEGMENT_MAX) wanted = SMALL_SEGMENT_MAX;
        if (wanted < bytes) wanted = bytes;
        number = get(&h->num_segments);
        q_status status = new_segment(q, wanted, 1);
        if (status == Q_NO_MEMORY && wanted > bytes) status = new_segment(q, bytes, 1);
        if (status != Q_OK) return status;
    }
    struct segment *s = &h->segments[number];
    uint64_t used = get(&s->used);
    if (used % CACHE_LINE) return Q_CORRUPT;
    *address = number << SEGMENT_SHIFT | used;
    struct block *b = at(q, *address, bytes);
    if (!b) return Q_NO_MEMORY;
    POINT(12);
    b->magic_class = MAGIC ^ class;
    set(&b->state, BLOCK_OWNED | (uint64_t)q->slot << 32);
    set(&b->next, 0);
    set(&b->punched, 0);
    struct change c;
    begin(&c, &h->allocate);
    PLAN(&c, s->used, used + bytes);
    commit(&c);
    return Q_OK;
}

static q_status allocate(q_queue *q, uint64_t bytes, uint64_t *address, int patient) {
    struct header *h = q->h;
    unsigned class = bytes > OFFSET_MASK ? NUM_CLASSES : class_of(bytes + sizeof(struct block));
    if (class >= NUM_CLASSES) return Q_NO_MEMORY;
    q_status status = take_lock(q, &h->allocate, patient);
    if (status != Q_OK) return status;
    POINT(10);
    uint64_t first = get(&h->free_block[class]);
    if (!first) {
        status = carve(q, class, address);
        unlock(&h->allocate);
        return status;
    }
    struct block *b = block_at(q, first);
    if (!b || (b->magic_class ^ MAGIC) != class || get(&b->state) != BLOCK_FREE) {
        unlock(&h->allocate);
        return Q_CORRUPT;
    }
    if (get(&b->punched)) {
        unsigned number = (unsigned)(first >> SEGMENT_SHIFT);
        uint64_t offset = get(&h->segments[number].offset) + (first & OFFSET_MASK);
        if (reserve(q->fd, offset, class_bytes(class)) != Q_OK) {
            unlock(&h->allocate);
            return Q_NO_MEMORY;
        }
    }
    struct change c;
    begin(&c, &h->allocate);
    PLAN(&c, h->free_block[class], get(&b->next));
    PLAN(&c, h->num_free[class], get(&h->num_free[class]) - 1);
    plan(&c, first + offsetof(struct block, punched), &b->punched, 0);
    plan(&c, first + offsetof(struct block, state), &b->state,
         BLOCK_OWNED | (uint64_t)q->slot << 32);
    commit(&c);
    unlock(&h->allocate);
    *address = first;
    return Q_OK;
}

static void release_locked(q_queue *q, uint64_t address, struct block *b) {
    struct header *h = q->h;
    unsigned class = (unsigned)(b->magic_class ^ MAGIC);
    uint64_t bytes = class_bytes(class), kept = get(&h->num_free[class]), punch = 0;
    if (bytes > 2 * 4096 && (kept * bytes >= KEPT_FREE_BYTES || bytes > KEPT_BLOCK_MAX)) {
        uint64_t number = address >> SEGMENT_SHIFT;
        uint64_t start = get(&h->segments[number].offset) + (address & OFFSET_MASK);
        uint64_t first = (start + sizeof *b + 4095) & ~UINT64_C(4095);
        uint64_t last = (start + bytes) & ~UINT64_C(4095);
        punch = last > first && !fallocate(q->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                           (off_t)first, (off_t)(last - first));
    }
    POINT(13);
    struct change c;
    begin(&c, &h->allocate);
    plan(&c, address + offsetof(struct block, next), &b->next, get(&h->free_block[class]));
    plan(&c, address + offsetof(struct block, punched), &b->punched, punch);
    plan(&c, address + offsetof(struct block, state), &b->state, BLOCK_FREE);
    PLAN(&c, h->num_free[class], kept + 1);
    PLAN(&c, h->free_block[class], address);
    commit(&c);
}

static q_status release(q_queue *q, uint64_t address, int patient) {
    struct block *b = block_at(q, address);
    if (!b) return Q_CORRUPT;
    q_status status = take_lock(q, &q->h->allocate, patient);
    if (status != Q_OK) return status;
    POINT(11);
    if (get(&b->state) == (BLOCK_OWNED | (uint64_t)q->slot << 32)) release_locked(q, address, b);
    unlock(&q->h->allocate);
    return Q_OK;
}

/* For what must not fail for a lock that is held: the sweep gets it in the end. */
static void release_surely(q_queue *q, uint64_t address) {
    for (int i = 0; i < 10; i++)
        if (release(q, address, 1) != Q_BUSY) return;
}

uint64_t q_inline_max(void) { return INLINE_MAX; }

q_status q_block_new(q_queue *q, uint64_t size, uint64_t *block, void **data, int patient) {
    TAKE_PART(q, patient);
    q_status status = allocate(q, size, block, patient);
    if (status != Q_OK) return status;
    *data = at(q, *block + sizeof(struct block), size);
    return *data ? Q_OK : Q_NO_MEMORY;
}

q_status q_block_free(q_queue *q, uint64_t block, int patient) {
    if (q->generation != q_fork_generation()) return Q_OK; /* it is the parent's */
    return release(q, block, patient);
}

/* -- making and attaching ----------------------------------------------------------------------- */

static uint32_t abi(void) {
    uint32_t order = 0x01020304;
    uint8_t first;
    memcpy(&first, &order, 1);
    return (uint32_t)sizeof(void *) | (uint32_t)first << 8 | (uint32_t)sizeof(pthread_mutex_t) << 16;
}

static uint64_t pid_namespace(void) {
    struct stat s;
    return stat("/proc/self/ns/pid", &s) ? 0 : (uint64_t)s.st_ino;
}

static uint64_t header_bytes(void) { return (sizeof(struct header) + 4095) & ~UINT64_C(4095); }

static q_status new_queue(int fd, q_queue **made) {
    q_queue *q = calloc(1, sizeof *q);
    if (!q) return Q_NO_MEMORY;
    void *p = mmap(NULL, header_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        free(q);
        return Q_NO_MEMORY;
    }
    q->h = p;
    q->fd = fd;
    q->pid = (uint64_t)getpid();
    q->generation = q_fork_generation();
    set(&q->bytes[0], header_bytes());
    atomic_store(&q->base[0], p);
    *made = q;
    return Q_OK;
}

static int init_lock(struct lock *lock) {
    pthread_mutexattr_t attributes;
    if (pthread_mutexattr_init(&attributes)) return -1;
    int error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) ||
                pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) ||
                pthread_mutex_init(&lock->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return error;
}

q_status q_create(int fd, uint64_t maxsize, const uint8_t uuid[16], q_queue **made) {
    if (reserve(fd, 0, header_bytes()) != Q_OK) return Q_NO_MEMORY;
    q_queue *q;
    q_status status = new_queue(fd, &q);
    if (status != Q_OK) return status;
    struct header *h = q->h;
    h->version = VERSION;
    h->abi = abi();
    memcpy(h->uuid, uuid, 16);
    h->uid = geteuid();
    h->pid_namespace = pid_namespace();
    h->maxsize = maxsize;
    h->header_bytes = header_bytes();
    set(&h->num_segments, 1);
    set(&h->segments[0].size, header_bytes());
    set(&h->segments[0].used, header_bytes());
    set(&h->file_bytes, header_bytes());
    set(&h->compact_at, 16);
    set(&h->num_chunks, 1);
    set(&h->num_slots, 1);
    uint64_t chunk = 0;
    if (init_lock(&h->put) || init_lock(&h->get) || init_lock(&h->allocate)) status = Q_SYSTEM;
    if (status == Q_OK) status = take_part(q, 1);
    if (status == Q_OK) status = allocate(q, CHUNK_BYTES - sizeof(struct block), &chunk, 1);
    if (status != Q_OK) {
        q_detach(q);
        return status;
    }
    struct block *b = block_at(q, chunk);
    set(&b->state, BLOCK_CHUNK);
    set(&h->tail_chunk, chunk);
    set(&h->oldest_chunk, chunk);
    chunk += sizeof(struct block);
    set(&h->tail, chunk);
    set(&h->cursor, chunk);
    set(&h->oldest, chunk);
    atomic_thread_fence(memory_order_release);
    h->magic = MAGIC;
    *made = q;
    return Q_OK;
}

/* Whether a lock is one that `init_lock` made: glibc aborts over a mutex of a kind that cannot be. */
static int is_lock(const struct lock *lock) {
#ifdef __GLIBC__
    struct lock made;
    if (init_lock(&made)) return 0;
    int same = lock->mutex.__data.__kind == made.mutex.__data.__kind;
    pthread_mutex_destroy(&made.mutex);
    return same;
#else
    return lock != NULL;
#endif
}

q_status q_attach(int fd, const uint8_t uuid[16], q_queue **made) {
    struct stat file;
    if (fstat(fd, &file)) return Q_SYSTEM;
    if (!S_ISREG(file.st_mode) || file.st_uid != geteuid() ||
        (uint64_t)file.st_size < header_bytes())
        return Q_FOREIGN;
    q_queue *q;
    q_status status = new_queue(fd, &q);
    if (status != Q_OK) return status;
    const struct header *h = q->h;
    if (h->magic != MAGIC || h->version != VERSION || h->abi != abi() ||
        h->header_bytes != header_bytes() || h->uid != geteuid() ||
        h->pid_namespace != pid_namespace() || (uuid && memcmp(h->uuid, uuid, 16)) ||
        !is_lock(&h->put) || !is_lock(&h->get) || !is_lock(&h->allocate)) {
        q->fd = -1; /* the caller's still */
        q_detach(q);
        return Q_FOREIGN;
    }
    *made = q;
    return Q_OK;
}

void q_detach(q_queue *q) {
    for (unsigned i = 0; i < MAX_SEGMENTS; i++) {
        uint8_t *base = atomic_load(&q->base[i]);
        if (base) munmap(base, get(&q->bytes[i]));
    }
    if (q->fd >= 0) close(q->fd);
    free(q);
}

int q_fd(const q_queue *q) { return q->fd; }

uint64_t q_maxsize(const q_queue *q) { return q->h->maxsize; }

/* -- putting ------------------------------------------------------------------------------------ */

struct appended { /* records behind the tail that are not published yet */
    uint64_t tail, chunk, number;
};

/* Find room for a record of so many bytes behind the tail, in a new chunk if need be. */
static q_status room_for(q_queue *q, struct change *c, struct appended *a, uint32_t bytes,
                         struct record **found) {
    struct header *h = q->h;
    if (unlikely(a->tail % 8)) return Q_CORRUPT;
    if (unlikely(a->tail + bytes + sizeof(struct record) > a->chunk + CHUNK_BYTES)) {
        uint64_t chunk;
        q_status status = allocate(q, CHUNK_BYTES - sizeof(struct block), &chunk, 1);
        if (status != Q_OK) return status;
        POINT(20);
        struct record *link = at(q, a->tail, sizeof *link);
        struct block *b = block_at(q, chunk);
        if (!link || !b) return Q_CORRUPT;
        link->bytes = sizeof *link;
        link->kind_size = Q_LINK << 24;
        set(&link->state, chunk + sizeof *b);
        plan(c, chunk + offsetof(struct block, state), &b->state, BLOCK_CHUNK);
        PLAN(c, h->tail_chunk, chunk);
        a->chunk = chunk;
        a->tail = chunk + sizeof *b;
    }
    *found = at(q, a->tail, bytes);
    return *found ? Q_OK : Q_CORRUPT;
}

static q_status append(q_queue *q, struct change *c, struct appended *a, uint32_t kind,
                       const void *data, uint32_t size, const void *more, uint32_t more_size) {
    uint32_t bytes = (uint32_t)((sizeof(struct record) + size + more_size + 7) & ~7u);
    struct record *r;
    q_status status = room_for(q, c, a, bytes, &r);
    if (unlikely(status != Q_OK)) return status;
    r->bytes = bytes;
    r->kind_size = kind << 24 | (size + more_size);
    atomic_store_explicit(&r->state, WAITING, memory_order_relaxed); /* published by commit */
    if (likely(size)) memcpy(r + 1, data, size); /* of an empty one `data` may be NULL */
    if (more_size) memcpy((uint8_t *)(r + 1) + size, more, more_size);
    a->tail += bytes;
    a->number++;
    return Q_OK;
}

static void publish(q_queue *q, struct change *c, struct appended *a, uint64_t messages,
                    uint64_t ends) {
    struct header *h = q->h;
    PLAN(c, h->tail, a->tail);
    if (messages) PLAN(c, h->num_put, get(&h->num_put) + messages);
    if (ends) PLAN(c, h->num_ends, get(&h->num_ends) + ends);
    PLAN(c, h->num_records, get(&h->num_records) + a->number); /* last: consumers look at it */
    commit(c);
    a->number = 0;
}

static uint64_t room(const struct header *h) {
    if (!h->maxsize) return UINT64_MAX;
    int64_t waiting = (int64_t)(get(&h->num_put) - get(&h->num_gone));
    return waiting >= (int64_t)h->maxsize ? 0 : h->maxsize - (uint64_t)waiting;
}

int q_full(const q_queue *q) { return room(q->h) == 0; }

int q_is_shut(const q_queue *q) { return get(&q->h->shut) != 0; }

q_status q_put_many(q_queue *q, const q_message *messages, size_t number, size_t *done,
                    int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    q_status status = take_lock(q, &h->put, patient);
    if (unlikely(status != Q_OK)) return status;
    POINT(21);
    if (unlikely(get(&h->shut))) {
        unlock(&h->put);
        return Q_SHUT;
    }
    struct change c;
    begin(&c, &h->put);
    struct appended a = {get(&h->tail), get(&h->tail_chunk), 0};
    uint64_t free_places = room(h), before = *done, in_change = 0;
    while (*done + in_change < number) {
        const q_message *m = &messages[*done + in_change];
        if (unlikely(in_change >= free_places)) {
            status = Q_FULL;
            break;
        }
        if (m->block) {
            struct large large = {m->block, m->size};
            struct block *b = block_at(q, m->block);
            status = b ? append(q, &c, &a, Q_BLOCK, &large, sizeof large, NULL, 0) : Q_CORRUPT;
            if (status != Q_OK) break;
            plan(&c, m->block + offsetof(struct block, state), &b->state, BLOCK_QUEUED);
        } else {
            status = append(q, &c, &a, Q_INLINE, m->data, (uint32_t)m->size, NULL, 0);
            if (status != Q_OK) break;
        }
        in_change++;
        if (c.number > JOURNAL_ENTRIES - 7) { /* a record may need three, publishing three */
            publish(q, &c, &a, in_change, 0);
            *done += in_change;
            free_places = room(h);
            in_change = 0;
        }
    }
    if (in_change) {
        publish(q, &c, &a, in_change, 0);
        *done += in_change;
    } else {
        c.number = 0; /* a chunk may be ours that is not linked: the sweep, or the next put, frees it */
    }
    unlock(&h->put);
    if (*done > before) wake(q, Q_ITEMS, *done - before);
    return status;
}

q_status q_put(q_queue *q, const void *data, uint64_t size, int patient) {
    q_message message = {data, size, 0};
    size_t done = 0;
    return q_put_many(q, &message, 1, &done, patient);
}

q_status q_end(q_queue *q, const void *tag, uint32_t size, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    if (size > 256) return Q_CORRUPT;
    q_status status = take_lock(q, &h->put, patient);
    if (status != Q_OK) return status;
    struct change c;
    begin(&c, &h->put);
    struct appended a = {get(&h->tail), get(&h->tail_chunk), 0};
    struct end end = {q->pid};
    status = append(q, &c, &a, Q_END, &end, sizeof end, tag, size);
    if (status == Q_OK) publish(q, &c, &a, 0, 1);
    unlock(&h->put);
    if (status == Q_OK) wake(q, Q_ITEMS, 1);
    return status;
}

/* -- taking ------------------------------------------------------------------------------------- */

static uint64_t state_of(unsigned what, uint64_t deaths, uint32_t owner) {
    return what | deaths << 8 | (uint64_t)owner << 32;
}

static unsigned what_of(uint64_t state) { return state & 0xff; }

static uint64_t deaths_of(uint64_t state) { return state >> 8 & 0xff; }

static uint32_t owner_of(uint64_t state) { return (uint32_t)(state >> 32); }

static q_status fill_item(q_queue *q, struct record *r, uint64_t address, uint32_t owner,
                          q_item *item) {
    item->kind = kind_of(r);
    item->owner = owner;
    item->record = address;
    item->block = 0;
    item->data = r + 1;
    item->size = r->kind_size & 0xffffff;
    if (item->kind == Q_BLOCK) {
        const struct large *large = (const void *)(r + 1);
        if (item->size < sizeof *large) return Q_CORRUPT;
        item->block = large->block;
        item->size = large->size;
        item->data = at(q, item->block + sizeof(struct block), item->size);
        if (!item->data) return Q_CORRUPT;
    }
    return Q_OK;
}

/* The record at an address, or behind the link that is there, which *links counts. */
static struct record *follow(q_queue *q, uint64_t *address, uint64_t *links) {
    struct record *r = record_at(q, *address);
    if (r && unlikely(kind_of(r) == Q_LINK)) {
        *address = get(&r->state);
        if (links) ++*links;
        r = record_at(q, *address);
        if (r && kind_of(r) == Q_LINK) return NULL; /* no chunk is empty */
    }
    return r;
}

/* Under the get lock: commit a change after which a chunk is not linked, and free it. Not if the
 * allocator is busy: consumers do not wait for it, and another time will do. */
static int unlink_chunk(q_queue *q, struct change *c, uint64_t chunk, struct block *b) {
    struct header *h = q->h;
    if (take_lock(q, &h->allocate, 0) != Q_OK) return 0;
    PLAN(c, h->num_chunks, get(&h->num_chunks) - 1);
    plan(c, chunk + offsetof(struct block, state), &b->state,
         BLOCK_OWNED | (uint64_t)q->slot << 32);
    commit(c);
    POINT(43);
    release_locked(q, chunk, b);
    unlock(&h->allocate);
    return 1;
}

/* Under the get lock: free chunks whose records are all finished, from the oldest. */
static void reap(q_queue *q) {
    struct header *h = q->h;
    uint64_t address = get(&h->oldest), cursor = get(&h->cursor), chunk = get(&h->oldest_chunk);
    while (address != cursor) {
        struct record *r = record_at(q, address);
        if (!r) break;
        if (kind_of(r) == Q_LINK) {
            struct block *b = block_at(q, chunk);
            uint64_t next = get(&r->state);
            if (!b) break;
            struct change c;
            begin(&c, &h->get);
            PLAN(&c, h->oldest, next);
            PLAN(&c, h->oldest_chunk, next - sizeof *b);
            if (!unlink_chunk(q, &c, chunk, b)) break;
            address = next;
            chunk = next - sizeof *b;
            continue;
        }
        unsigned what = what_of(get(&r->state)); /* acquire: pairs with the release in q_done */
        if (what != DONE && what != WITHDRAWN) break;
        address += r->bytes;
    }
    if (address != get(&h->oldest)) {
        struct change c;
        begin(&c, &h->get);
        PLAN(&c, h->oldest, address);
        commit(&c);
    }
}

/* Under the get lock: one message may be held for long while millions pass. Unlink the finished
 * chunks between it and the cursor. */
static void compact(q_queue *q) {
    struct header *h = q->h;
    uint64_t cursor = get(&h->cursor), address = get(&h->oldest), previous_link = 0;
    uint64_t chunk = get(&h->oldest_chunk);
    int finished = 1, has_cursor = 0;
    word *link_word = NULL;
    while (!has_cursor) {
        struct record *r = NULL;
        for (;;) { /* through one chunk */
            if (address == cursor) {
                has_cursor = 1;
                break;
            }
            r = record_at(q, address);
            if (!r) return;
            if (kind_of(r) == Q_LINK) break;
            unsigned what = what_of(get(&r->state));
            if (what != DONE && what != WITHDRAWN) finished = 0;
            address += r->bytes;
        }
        if (has_cursor) break;
        uint64_t next = get(&r->state);
        if (finished && link_word) {
            struct block *b = block_at(q, chunk);
            if (!b) return;
            struct change c;
            begin(&c, &h->get);
            plan(&c, previous_link + offsetof(struct record, state), link_word, next);
            if (!unlink_chunk(q, &c, chunk, b)) return;
        } else {
            previous_link = address;
            link_word = &r->state;
        }
        address = next;
        chunk = next - sizeof(struct block);
        finished = 1;
    }
    struct change c;
    begin(&c, &h->get);
    uint64_t left = get(&h->num_chunks);
    PLAN(&c, h->compact_at, left < 8 ? 16 : 2 * left);
    commit(&c);
}

/* Under the get lock: whether an END of this sender may be given to a process. */
static int end_is_ready(q_queue *q, uint64_t sender) {
    struct header *h = q->h;
    if (!get(&h->num_leased)) return 1;
    uint64_t number = get(&h->num_slots);
    for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++) {
        struct slot *s = &h->slots[i];
        uint64_t kind_pid = get(&s->kind_pid);
        if ((kind_pid & 0xff) != SLOT_READER || !get(&s->leases)) continue;
        uint64_t pid = kind_pid >> 8;
        if (pid != sender && pid != q->pid && !atomic_load(&s->waiting)) return 0;
    }
    return 1;
}

/* Under the get lock: take one that came back, the oldest. */
static q_status take_returned(q_queue *q, uint32_t reader, q_item *item) {
    struct header *h = q->h;
    uint64_t address = get(&h->oldest), cursor = get(&h->cursor);
    for (;;) {
        if (address == cursor) return Q_CORRUPT;
        struct record *r = record_at(q, address);
        if (!r) return Q_CORRUPT;
        if (kind_of(r) == Q_LINK) {
            address = get(&r->state);
            continue;
        }
        uint64_t state = get(&r->state);
        if (what_of(state) != RETURNED) {
            address += r->bytes;
            continue;
        }
        uint32_t owner = reader ? reader : q->slot;
        q_status status = fill_item(q, r, address, owner, item);
        if (status != Q_OK) return status;
        struct slot *s = &h->slots[owner];
        struct change c;
        begin(&c, &h->get);
        plan(&c, address + offsetof(struct record, state), &r->state,
             state_of(LEASED, deaths_of(state), owner));
        PLAN(&c, h->num_returned, get(&h->num_returned) - 1);
        PLAN(&c, h->num_taken_extra, get(&h->num_taken_extra) + 1);
        if (reader) {
            PLAN(&c, s->leases, get(&s->leases) + 1);
            PLAN(&c, h->num_leased, get(&h->num_leased) + 1);
        } else {
            PLAN(&c, s->taken, get(&s->taken) + 1);
        }
        PLAN(&c, h->num_gone, get(&h->num_gone) + 1);
        commit(&c);
        return Q_OK;
    }
}

static q_status take_fresh(q_queue *q, uint32_t reader, q_item *items, size_t limit,
                           size_t *number) {
    struct header *h = q->h;
    uint32_t owner = reader ? reader : q->slot;
    struct slot *s = &h->slots[owner];
    struct change c;
    begin(&c, &h->get);
    /* Acquire: pairs with the release of `num_records` in commit. */
    uint64_t seen = get(&h->num_seen), records = get(&h->num_records), cursor = get(&h->cursor);
    uint64_t borders = 0, messages = 0;
    q_status status = Q_OK;
    if (unlikely(records - seen > UINT64_MAX / 2)) return Q_CORRUPT;
    while (*number < limit && seen != records) {
        struct record *r = follow(q, &cursor, &borders);
        if (unlikely(!r)) return Q_CORRUPT;
        if (unlikely(what_of(get(&r->state)) == WITHDRAWN)) {
            cursor += r->bytes;
            seen++;
            continue;
        }
        q_item *item = &items[*number];
        if (unlikely(kind_of(r) == Q_END)) {
            const struct end *end = (const void *)(r + 1);
            if (*number) break;
            if ((r->kind_size & 0xffffff) < sizeof *end) return Q_CORRUPT;
            if (!end_is_ready(q, end->sender)) {
                status = Q_NOT_YET;
                break;
            }
            item->kind = Q_END;
            item->record = item->block = item->size = 0;
            ++*number;
            PLAN(&c, h->num_ends_gone, get(&h->num_ends_gone) + 1);
            plan(&c, cursor + offsetof(struct record, state), &r->state, DONE);
            cursor += r->bytes;
            seen++;
            break;
        }
        status = fill_item(q, r, cursor, owner, item);
        if (unlikely(status != Q_OK)) return status;
        /* Before the commit the mark means nothing: see `struct record`. */
        atomic_store_explicit(&r->state, state_of(LEASED, 0, owner), memory_order_relaxed);
        cursor += r->bytes;
        seen++;
        messages++;
        ++*number;
    }
    if (seen == get(&h->num_seen)) return status == Q_OK ? Q_EMPTY : status;
    PLAN(&c, h->cursor, cursor);
    PLAN(&c, h->num_seen, seen);
    if (messages) {
        if (reader) {
            PLAN(&c, s->leases, get(&s->leases) + messages);
            PLAN(&c, h->num_leased, get(&h->num_leased) + messages);
        } else {
            PLAN(&c, s->taken, get(&s->taken) + messages);
        }
        PLAN(&c, h->num_gone, get(&h->num_gone) + messages);
    }
    if (unlikely(borders)) PLAN(&c, h->num_chunks, get(&h->num_chunks) + borders);
    commit(&c);
    if (unlikely(borders)) {
        reap(q);
        if (get(&h->num_chunks) > get(&h->compact_at)) compact(q);
    }
    return *number ? Q_OK : status == Q_OK ? Q_EMPTY : status;
}

q_status q_take(q_queue *q, uint32_t reader, q_item *items, size_t limit, size_t *number,
                int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    *number = 0;
    if (reader >= MAX_SLOTS) return Q_CORRUPT;
    q_status status = take_lock(q, &h->get, patient);
    if (unlikely(status != Q_OK)) return status;
    POINT(30);
    while (unlikely(get(&h->num_returned)) && *number < limit && status == Q_OK) {
        status = take_returned(q, reader, &items[*number]);
        if (status == Q_OK) ++*number;
    }
    if (status == Q_OK && *number < limit) {
        status = take_fresh(q, reader, items, limit, number);
        if (*number && status != Q_CORRUPT) status = Q_OK;
    }
    int shut = status == Q_EMPTY && get(&h->shut);
    if (unlikely(status == Q_EMPTY)) reap(q);
    unlock(&h->get);
    if (*number && h->maxsize) wake(q, Q_SPACE, *number);
    return shut ? Q_SHUT : status;
}

q_status q_peek(q_queue *q, void *into, uint64_t capacity, uint64_t *size, uint32_t *kind,
                int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    uint64_t address = get(&h->cursor), cursor = address, seen = get(&h->num_seen);
    uint64_t records = get(&h->num_records);
    struct record *r = NULL;
    if (get(&h->num_returned)) {
        address = get(&h->oldest);
        while (address != cursor && (r = follow(q, &address, NULL)) && address != cursor &&
               what_of(get(&r->state)) != RETURNED)
            address += r->bytes;
    } else {
        while (seen != records && (r = follow(q, &address, NULL)) &&
               what_of(get(&r->state)) == WITHDRAWN) {
            address += r->bytes;
            seen++;
            r = NULL;
        }
    }
    if (!r) {
        status = get(&h->shut) ? Q_SHUT : Q_EMPTY;
    } else if (kind_of(r) == Q_END) {
        const struct end *end = (const void *)(r + 1);
        *kind = Q_END;
        *size = 0;
        if (!end_is_ready(q, end->sender)) status = Q_NOT_YET;
    } else {
        q_item item;
        status = fill_item(q, r, address, 0, &item);
        if (status == Q_OK) {
            *kind = item.kind;
            *size = item.size;
            if (item.size <= capacity) memcpy(into, item.data, item.size);
        }
    }
    unlock(&h->get);
    return status;
}

/* Under the get lock: whether the first thing that waits is an END, for which somebody may wait. */
static int end_is_first(q_queue *q) {
    struct header *h = q->h;
    uint64_t address = get(&h->cursor);
    if (get(&h->num_records) == get(&h->num_seen)) return 0;
    struct record *r = follow(q, &address, NULL);
    return r && kind_of(r) == Q_END;
}

uint64_t q_unfinished(const q_queue *q) {
    uint64_t done = get(&q->h->num_done), put = get(&q->h->num_put);
    return put - done;
}

/* Under the get lock: plan that messages are finished. `task_done` may have told of some before
 * they were taken, so there may be fewer left. */
static void plan_done(q_queue *q, struct change *c, uint64_t number) {
    uint64_t left = q_unfinished(q);
    PLAN(c, q->h->num_done, get(&q->h->num_done) + (number < left ? number : left));
}

/* Under the get lock: plan what settles a leased record. */
static q_status find_leased(q_queue *q, uint64_t address, uint32_t owner, struct record **found) {
    struct record *r = record_at(q, address);
    if (!r) return Q_CORRUPT;
    uint64_t state = get(&r->state);
    if (what_of(state) != LEASED || owner_of(state) != owner) return Q_EMPTY;
    *found = r;
    return Q_OK;
}

static void plan_block(q_queue *q, struct change *c, struct record *r, uint32_t owner,
                       uint64_t *block) {
    *block = 0;
    if (kind_of(r) != Q_BLOCK) return;
    const struct large *large = (const void *)(r + 1);
    struct block *b = block_at(q, large->block);
    if (!b) return;
    *block = large->block;
    plan(c, large->block + offsetof(struct block, state), &b->state,
         BLOCK_OWNED | (uint64_t)owner << 32);
}

q_status q_done(q_queue *q, const q_item *item, int patient) {
    if (unlikely(q->generation != q_fork_generation())) return Q_OK; /* it is the parent's */
    if (likely(item->kind == Q_INLINE)) {
        if (unlikely(item->owner != q->slot)) return Q_OK; /* it has left: the chunk may be free */
        struct record *r = (struct record *)item->data - 1;
        POINT(31);
        /* Pairs with the load in `reap`: what we read of it came before. */
        set(&r->state, DONE);
        return Q_OK;
    }
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    struct record *r;
    status = find_leased(q, item->record, item->owner, &r);
    if (status == Q_OK) {
        struct change c;
        begin(&c, &h->get);
        uint64_t block;
        plan_block(q, &c, r, q->slot, &block);
        plan(&c, item->record + offsetof(struct record, state), &r->state, DONE);
        commit(&c);
    }
    unlock(&h->get);
    return status;
}

/* Under the get lock: a leased record waits again. */
static void put_back(q_queue *q, struct record *r, uint64_t address, uint64_t deaths,
                     uint32_t owner, int was_lease, int died) {
    struct header *h = q->h;
    struct slot *s = &h->slots[owner];
    struct change c;
    begin(&c, &h->get);
    plan(&c, address + offsetof(struct record, state), &r->state, state_of(RETURNED, deaths, 0));
    PLAN(&c, h->num_returned, get(&h->num_returned) + 1);
    if (was_lease) {
        PLAN(&c, s->leases, get(&s->leases) - 1);
        PLAN(&c, h->num_leased, get(&h->num_leased) - 1);
    } else if (get(&s->taken)) {
        PLAN(&c, s->taken, get(&s->taken) - 1);
    }
    if (died)
        PLAN(&c, h->num_redelivered, get(&h->num_redelivered) + 1);
    else
        PLAN(&c, h->num_taken_extra, get(&h->num_taken_extra) - 1);
    PLAN(&c, h->num_gone, get(&h->num_gone) - 1);
    commit(&c);
}

static q_status give_back(q_queue *q, uint32_t owner, uint64_t record, int was_lease, int patient) {
    if (q->generation != q_fork_generation()) return Q_OK;
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    struct record *r;
    status = find_leased(q, record, owner, &r);
    if (status == Q_OK) put_back(q, r, record, deaths_of(get(&r->state)), owner, was_lease, 0);
    unlock(&h->get);
    if (status == Q_OK) wake(q, Q_ITEMS, 1);
    return status;
}

q_status q_give_back(q_queue *q, const q_item *item, int patient) {
    return give_back(q, item->owner, item->record, 0, patient);
}

/* -- leases ------------------------------------------------------------------------------------- */

q_status q_reader_new(q_queue *q, uint32_t *reader, int patient) {
    TAKE_PART(q, patient);
    for (int has_swept = 0;; has_swept = 1) {
        q_status status = take_lock(q, &q->h->get, patient);
        if (status != Q_OK) return status;
        status = new_slot(q, SLOT_READER, reader);
        unlock(&q->h->get);
        if (status != Q_NO_SLOT || has_swept) return status;
        status = sweep(q, patient);
        if (status != Q_OK) return status;
    }
}

q_status q_reader_waits(q_queue *q, uint32_t reader, int waits) {
    if (!reader || reader >= MAX_SLOTS) return Q_CORRUPT;
    struct slot *s = &q->h->slots[reader];
    if (q->generation != q_fork_generation() || get(&s->kind_pid) != (SLOT_READER | q->pid << 8))
        return Q_OK; /* it is the parent's, or closed and another's by now */
    uint32_t before = atomic_exchange(&s->waiting, (uint32_t)waits);
    if (waits && !before && get(&s->leases)) wake(q, Q_ITEMS, INT_MAX); /* an END may be ready now */
    return Q_OK;
}

/* Under the get lock. */
static void lease_done(q_queue *q, struct record *r, uint64_t address, uint32_t reader,
                       uint64_t *block) {
    struct header *h = q->h;
    struct slot *s = &h->slots[reader];
    struct change c;
    begin(&c, &h->get);
    plan_block(q, &c, r, q->slot, block);
    plan(&c, address + offsetof(struct record, state), &r->state, DONE);
    PLAN(&c, s->leases, get(&s->leases) - 1);
    PLAN(&c, h->num_leased, get(&h->num_leased) - 1);
    plan_done(q, &c, 1);
    commit(&c);
}

q_status q_lease_done(q_queue *q, uint32_t reader, uint64_t record, int patient) {
    if (q->generation != q_fork_generation()) return Q_OK;
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    struct record *r;
    uint64_t block = 0;
    int end_waits = 0;
    status = find_leased(q, record, reader, &r);
    if (status == Q_OK) {
        lease_done(q, r, record, reader, &block);
        end_waits = end_is_first(q);
    }
    unlock(&h->get);
    if (block) release_surely(q, block);
    if (end_waits) wake(q, Q_ITEMS, INT_MAX);
    if (status == Q_OK && !q_unfinished(q)) wake(q, Q_IDLE, INT_MAX);
    return status == Q_EMPTY ? Q_OK : status;
}

q_status q_lease_give_back(q_queue *q, uint32_t reader, uint64_t record, int patient) {
    q_status status = give_back(q, reader, record, 1, patient);
    return status == Q_EMPTY ? Q_OK : status;
}

/* Under the get lock: the next record from an address on that is leased to a reader whose slot is
 * marked, or NULL at the cursor. */
static struct record *next_leased(q_queue *q, uint64_t *address, const uint8_t *marked) {
    uint64_t cursor = get(&q->h->cursor);
    while (*address != cursor) {
        struct record *r = record_at(q, *address);
        if (!r) return NULL;
        if (kind_of(r) == Q_LINK) {
            *address = get(&r->state);
            continue;
        }
        uint64_t state = get(&r->state);
        if (what_of(state) == LEASED && owner_of(state) < MAX_SLOTS && marked[owner_of(state)])
            return r;
        *address += r->bytes;
    }
    return NULL;
}

enum { CLOSED = 1, DIED, TAKEN }; /* what the mark of a slot means for what it holds */

/* Under the get lock: settle all that the marked slots hold. */
static void settle(q_queue *q, const uint8_t *marked) {
    struct header *h = q->h;
    uint64_t address = get(&h->oldest);
    struct record *r;
    while ((r = next_leased(q, &address, marked))) {
        uint64_t state = get(&r->state), block = 0, deaths = deaths_of(state) + 1;
        uint32_t owner = owner_of(state);
        if (marked[owner] == CLOSED) {
            lease_done(q, r, address, owner, &block);
        } else if (marked[owner] == TAKEN) { /* its `taken` has it, and is settled by its slot */
            struct change c;
            begin(&c, &h->get);
            plan_block(q, &c, r, owner, &block);
            plan(&c, address + offsetof(struct record, state), &r->state, DONE);
            commit(&c);
            block = 0; /* freed with all that the slot owns, when its process is dead */
        } else if (deaths < POISON_DEATHS) {
            put_back(q, r, address, deaths, owner, 1, 1);
        } else {
            struct slot *s = &h->slots[owner];
            struct change c;
            begin(&c, &h->get);
            plan(&c, address + offsetof(struct record, state), &r->state,
                 state_of(SET_ASIDE, deaths, 0));
            PLAN(&c, s->leases, get(&s->leases) - 1);
            PLAN(&c, h->num_leased, get(&h->num_leased) - 1);
            PLAN(&c, h->num_poisoned, get(&h->num_poisoned) + 1);
            PLAN(&c, h->num_set_aside, get(&h->num_set_aside) + 1);
            plan_done(q, &c, 1);
            commit(&c);
        }
        if (block) release_surely(q, block);
        POINT(40);
    }
}

q_status q_reader_close(q_queue *q, uint32_t reader, int patient) {
    if (q->generation != q_fork_generation() || !reader || reader >= MAX_SLOTS) return Q_OK;
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    struct slot *s = &h->slots[reader];
    if (get(&s->kind_pid) == (SLOT_READER | q->pid << 8)) {
        if (get(&s->leases)) {
            uint8_t marked[MAX_SLOTS] = {0};
            marked[reader] = CLOSED;
            settle(q, marked);
        }
        struct change c;
        begin(&c, &h->get);
        PLAN(&c, s->kind_pid, SLOT_FREE);
        commit(&c);
    }
    unlock(&h->get);
    wake(q, Q_ITEMS, INT_MAX);
    if (!q_unfinished(q)) wake(q, Q_IDLE, INT_MAX);
    return Q_OK;
}

q_status q_take_poisoned(q_queue *q, q_item *item, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    status = Q_EMPTY;
    if (get(&h->num_set_aside)) {
        uint64_t address = get(&h->oldest), cursor = get(&h->cursor);
        struct record *r;
        while (address != cursor && (r = follow(q, &address, NULL)) && address != cursor) {
            if (what_of(get(&r->state)) == SET_ASIDE) {
                status = fill_item(q, r, address, q->slot, item);
                if (status != Q_OK) break;
                struct change c;
                begin(&c, &h->get);
                plan(&c, address + offsetof(struct record, state), &r->state,
                     state_of(LEASED, 0, q->slot));
                PLAN(&c, h->num_set_aside, get(&h->num_set_aside) - 1);
                commit(&c);
                break;
            }
            address += r->bytes;
        }
    }
    unlock(&h->get);
    return status;
}

/* -- both sides --------------------------------------------------------------------------------- */

static q_status take_both(q_queue *q, int patient) {
    q_status status = take_lock(q, &q->h->put, patient);
    if (status != Q_OK) return status;
    status = take_lock(q, &q->h->get, patient);
    if (status != Q_OK) unlock(&q->h->put);
    return status;
}

static void release_both(q_queue *q) {
    unlock(&q->h->get);
    unlock(&q->h->put);
}

q_status q_withdraw(q_queue *q, const void *tag, uint32_t size, uint64_t *number, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    *number = 0;
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    uint64_t address = get(&h->cursor), seen = get(&h->num_seen);
    for (; seen != get(&h->num_records); seen++) {
        struct record *r = follow(q, &address, NULL);
        if (!r) {
            status = Q_CORRUPT;
            break;
        }
        uint32_t bytes = r->kind_size & 0xffffff;
        if (kind_of(r) == Q_END && what_of(get(&r->state)) != WITHDRAWN &&
            bytes == sizeof(struct end) + size &&
            !memcmp((uint8_t *)(r + 1) + sizeof(struct end), tag, size)) {
            struct change c;
            begin(&c, &h->get);
            plan(&c, address + offsetof(struct record, state), &r->state, WITHDRAWN);
            PLAN(&c, h->num_ends_gone, get(&h->num_ends_gone) + 1);
            commit(&c);
            ++*number;
        }
        address += r->bytes;
    }
    release_both(q);
    if (*number) wake(q, Q_ITEMS, INT_MAX);
    return status;
}

q_status q_task_done(q_queue *q, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    if (!q_unfinished(q)) {
        status = Q_TOO_OFTEN;
    } else {
        struct slot *s = &h->slots[q->slot];
        struct change c;
        begin(&c, &h->get);
        if (get(&s->taken)) PLAN(&c, s->taken, get(&s->taken) - 1);
        plan_done(q, &c, 1);
        commit(&c);
    }
    unlock(&h->get);
    if (!q_unfinished(q)) wake(q, Q_IDLE, INT_MAX);
    return status;
}

/* Under both locks: throw away what waits. */
static q_status discard(q_queue *q) {
    struct header *h = q->h;
    for (;;) {
        q_item item;
        size_t number = 0;
        q_status status = get(&h->num_returned) ? take_returned(q, 0, &item)
                                                : take_fresh(q, 0, &item, 1, &number);
        if (status == Q_EMPTY) return Q_OK;
        if (status == Q_NOT_YET) { /* an END that nobody will wait for */
            uint64_t address = get(&h->cursor);
            struct record *r = follow(q, &address, NULL);
            if (!r) return Q_CORRUPT;
            struct change c;
            begin(&c, &h->get);
            plan(&c, address + offsetof(struct record, state), &r->state, WITHDRAWN);
            PLAN(&c, h->num_ends_gone, get(&h->num_ends_gone) + 1);
            commit(&c);
            continue;
        }
        if (status != Q_OK) return status;
        if (item.kind == Q_END) continue;
        struct record *r;
        status = find_leased(q, item.record, q->slot, &r);
        if (status != Q_OK) return status;
        struct slot *s = &h->slots[q->slot];
        struct change c;
        begin(&c, &h->get);
        uint64_t block;
        plan_block(q, &c, r, q->slot, &block);
        plan(&c, item.record + offsetof(struct record, state), &r->state, DONE);
        PLAN(&c, s->taken, get(&s->taken) - 1);
        PLAN(&c, h->num_taken_extra, get(&h->num_taken_extra) - 1);
        plan_done(q, &c, 1);
        commit(&c);
        if (block) release_surely(q, block);
    }
}

q_status q_shutdown(q_queue *q, int immediate, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    struct change c;
    begin(&c, &h->get);
    PLAN(&c, h->shut, 1);
    commit(&c);
    if (immediate) {
        status = discard(q);
        reap(q);
    }
    release_both(q);
    for (int i = 0; i < Q_NUM_EVENTS; i++) wake(q, (q_event)i, INT_MAX);
    return status;
}

q_status q_statistics(q_queue *q, q_counts *counts, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    counts->put = get(&h->num_put);
    counts->size = counts->put - get(&h->num_gone) + get(&h->num_ends) - get(&h->num_ends_gone);
    counts->leased = get(&h->num_leased);
    counts->done = get(&h->num_done);
    counts->unfinished = counts->put - counts->done;
    /* What has gone was taken; what came back went more than once. */
    counts->taken = get(&h->num_gone) + get(&h->num_returned) + get(&h->num_taken_extra);
    counts->lost = get(&h->num_lost);
    counts->redelivered = get(&h->num_redelivered);
    counts->poisoned = get(&h->num_poisoned);
    counts->maxsize = h->maxsize;
    release_both(q);
    return Q_OK;
}

/* -- definitions -------------------------------------------------------------------------------- */

q_status q_define(q_queue *q, const void *key, uint32_t key_size, const void *data, uint64_t size,
                  int patient) {
    const void *known;
    uint64_t known_size, block;
    struct definition *d;
    if (q_fetch(q, key, key_size, &known, &known_size) == Q_OK) return Q_OK;
    q_status status = q_block_new(q, sizeof *d + key_size + size, &block, (void **)&d, patient);
    if (status != Q_OK) return status;
    d->key_size = key_size;
    d->size = size;
    memcpy(d + 1, key, key_size);
    memcpy((uint8_t *)(d + 1) + key_size, data, size);
    status = take_lock(q, &q->h->put, 1);
    if (status != Q_OK) {
        release_surely(q, block);
        return status;
    }
    struct block *b = block_at(q, block);
    d->next = get(&q->h->definitions);
    struct change c;
    begin(&c, &q->h->put);
    plan(&c, block + offsetof(struct block, state), &b->state, BLOCK_DEFINITION);
    PLAN(&c, q->h->definitions, block);
    commit(&c);
    unlock(&q->h->put);
    return Q_OK;
}

q_status q_fetch(q_queue *q, const void *key, uint32_t key_size, const void **data,
                 uint64_t *size) {
    uint64_t block = get(&q->h->definitions);
    for (int i = 0; block && i < 1000000; i++) {
        const struct definition *d = at(q, block + sizeof(struct block), sizeof *d);
        if (!d || block % CACHE_LINE || !at(q, block + sizeof(struct block), sizeof *d + d->key_size)) return Q_CORRUPT;
        const uint8_t *body = (const uint8_t *)(d + 1);
        if (d->key_size == key_size && !memcmp(body, key, key_size)) {
            if (d->size > OFFSET_MASK ||
                !at(q, block + sizeof(struct block), sizeof *d + d->key_size + d->size))
                return Q_CORRUPT;
            *data = body + key_size;
            *size = d->size;
            return Q_OK;
        }
        block = d->next;
    }
    return Q_EMPTY;
}

/* -- the dead, and those who leave -------------------------------------------------------------- */

static int is_dead(const struct slot *s) {
    uint64_t pid = get(&s->kind_pid) >> 8, known = get(&s->started);
    if (kill((pid_t)pid, 0) && errno == ESRCH) return 1;
    uint64_t started = start_of(pid);
    return !started || (started != UNKNOWN && known != UNKNOWN && started != known);
}

/* Under all locks: blocks that belong to slots that are marked are free again. */
static void free_blocks(q_queue *q, const uint8_t *marked) {
    struct header *h = q->h;
    uint64_t number = get(&h->num_segments);
    for (uint64_t i = 1; i < number && i < MAX_SEGMENTS; i++) {
        uint64_t used = get(&h->segments[i].used), offset = 0;
        while (offset < used) {
            uint64_t address = i << SEGMENT_SHIFT | offset;
            struct block *b = block_at(q, address);
            if (!b) break;
            uint64_t state = get(&b->state);
            if ((state & 0xff) == BLOCK_OWNED && owner_of(state) < MAX_SLOTS &&
                marked[owner_of(state)])
                release_locked(q, address, b);
            offset += class_bytes((unsigned)(b->magic_class ^ MAGIC));
        }
    }
}

/* Under the get lock: what a slot took and did not do counts as done. */
static void settle_taken(q_queue *q, struct slot *s, int died, uint64_t new_kind) {
    struct header *h = q->h;
    uint64_t waiting = get(&h->num_put) - get(&h->num_gone);
    /* Below zero if `task_done` told of messages that still wait. */
    int64_t held = (int64_t)(q_unfinished(q) - waiting - get(&h->num_leased));
    int64_t taken = (int64_t)get(&s->taken), least = taken < held ? taken : held;
    uint64_t lost = least > 0 ? (uint64_t)least : 0;
    struct change c;
    begin(&c, &h->get);
    if (lost) {
        plan_done(q, &c, lost);
        if (died) PLAN(&c, h->num_lost, get(&h->num_lost) + lost);
    }
    PLAN(&c, s->taken, 0);
    PLAN(&c, s->kind_pid, new_kind);
    commit(&c);
}

static q_status sweep(q_queue *q, int patient) {
    struct header *h = q->h;
    uint8_t marked[MAX_SLOTS] = {0};
    int any = 0;
    uint64_t number = get(&h->num_slots);
    for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++)
        any |= marked[i] = (get(&h->slots[i].kind_pid) & 0xff) && is_dead(&h->slots[i]);
    if (!any) {
        /* A killed producer may have committed what nobody has applied. */
        q_status status = Q_OK;
        if (atomic_load(&h->put.number) || atomic_load(&h->get.number)) {
            status = take_both(q, patient);
            if (status == Q_OK) release_both(q);
        }
        return status;
    }
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    /* Somebody else may have done it meanwhile, and given the slots to others. */
    for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++) {
        if (!marked[i]) continue;
        unsigned kind = get(&h->slots[i].kind_pid) & 0xff;
        marked[i] = !kind || !is_dead(&h->slots[i]) ? 0 : kind == SLOT_READER ? DIED : TAKEN;
    }
    settle(q, marked);
    POINT(41);
    status = take_lock(q, &h->allocate, 1);
    if (status == Q_OK) {
        marked[0] = TAKEN; /* of one that was killed here while it had no slot */
        free_blocks(q, marked);
        unlock(&h->allocate);
        for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++) {
            if (!marked[i]) continue;
            POINT(42);
            settle_taken(q, &h->slots[i], (get(&h->slots[i].kind_pid) & 0xff) == SLOT_PROCESS,
                         SLOT_FREE);
        }
        reap(q);
    }
    release_both(q);
    for (int i = 0; i < Q_NUM_EVENTS; i++) wake(q, (q_event)i, INT_MAX);
    return status;
}

q_status q_sweep(q_queue *q, int only_if_due, int patient) {
    struct header *h = q->h;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    if (only_if_due && now - (int64_t)get(&h->last_sweep_ns) < SWEEP_INTERVAL_NS &&
        now >= (int64_t)get(&h->last_sweep_ns))
        return Q_OK;
    set(&h->last_sweep_ns, (uint64_t)now);
    if (q->slot) TAKE_PART(q, patient); /* a forked child is not its parent */
    return sweep(q, patient);
}

q_status q_leave(q_queue *q, int patient) {
    if (!q->slot || q->generation != q_fork_generation()) return Q_OK;
    struct header *h = q->h;
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    uint8_t marked[MAX_SLOTS] = {0};
    uint64_t number = get(&h->num_slots), started = get(&h->slots[q->slot].started);
    for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++) {
        struct slot *s = &h->slots[i];
        uint64_t kind_pid = get(&s->kind_pid);
        if (kind_pid >> 8 != q->pid || get(&s->started) != started) continue;
        if ((kind_pid & 0xff) == SLOT_READER) marked[i] = CLOSED;
        if (i == q->slot) marked[i] = TAKEN;
    }
    settle(q, marked);
    for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++) {
        if (!marked[i]) continue;
        /* What is still mapped somewhere in this process is freed when it is dead. */
        settle_taken(q, &h->slots[i], 0, i == q->slot ? SLOT_LEFT | q->pid << 8 : SLOT_FREE);
    }
    q->slot = 0;
    release_both(q);
    for (int i = 0; i < Q_NUM_EVENTS; i++) wake(q, (q_event)i, INT_MAX);
    return Q_OK;
}

/* -- in a forked child: what objects here look at becomes this process's own ------------------------
 *
 * The parent may free such a block, write to it, or die. So the child copies it, to the same place;
 * whatever else is in that segment, it uses by another mapping.
 */
q_status q_make_own(q_queue *q, uint64_t block, void *data, uint64_t size) {
    unsigned number = (unsigned)(block >> SEGMENT_SHIFT);
    if (number >= MAX_SEGMENTS) return Q_CORRUPT;
    uint8_t *start = (uint8_t *)data - sizeof(struct block), *base = atomic_load(&q->base[number]);
    uint64_t bytes = get(&q->bytes[number]), length = size + sizeof(struct block);
    if (base && start >= base && start < base + bytes) {
        void *other = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, q->fd,
                           (off_t)get(&q->h->segments[number].offset));
        if (other == MAP_FAILED) return Q_NO_MEMORY;
        atomic_store(&q->base[number], other);
    }
    void *copy = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) return Q_NO_MEMORY;
    memcpy(copy, start, length);
    return mremap(copy, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, start) == start ? Q_OK
                                                                                       : Q_NO_MEMORY;
}
