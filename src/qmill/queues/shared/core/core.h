/* Shared by the files of the core: the layout of the queue's file, this process's state of it, and
 * the short functions that every operation uses.
 *
 *   life.c          detects which processes are alive
 *   participants.c  slots of processes and readers; settles the messages of dead and leaving ones
 *   memory.c        segments, blocks, definitions
 *   lent.c          blocks whose memory objects of this process use, and forks
 *   room.c          the memory that the system has left for this process
 *   lock.c          locks and their journals, events
 *   attach.c        makes a queue, attaches to one
 *   log.c           the chunks of records: frees finished ones
 *   ring.c          puts and takes
 *   leases.c        ends leases
 *   whole.c         operations that hold both locks
 *   pickles.c       notes which pickles of the queue have been loaded
 */
#ifndef QMILL_CORE_H
#define QMILL_CORE_H

#define _GNU_SOURCE
#include "ring.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#ifdef QMILL_POINTS
#define POINT(number) (q_at_point ? q_at_point(number) : (void)0)
#else
#define POINT(number) ((void)0)
#endif

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define MAGIC UINT64_C(0x314c4c494d51)
#define VERSION 3u
#define CACHE_LINE 64
#define PAGE 4096
#define MAX_SEGMENTS 1024
#define MAX_SLOTS 16384
#define NUM_CLASSES 24 /* of blocks: 64 KiB to 512 GiB */
#define JOURNAL_ENTRIES 14
#define TAKING 0x80000000u /* one is taken: the last bits are the version that `gets` has after it */
#define POISON_DEATHS 3
#define PICKLES_KNOWN 64
#define CHUNK_BYTES (UINT64_C(1) << 16)
#define INLINE_MAX (UINT64_C(16) << 10)
#ifndef KEPT_BYTES /* default of the most free memory kept; more goes back to the system */
#define KEPT_BYTES (UINT64_C(64) << 20)
#endif
#define KEPT_BYTES_MAX (4 * KEPT_BYTES) /* if messages are so large that those would be a few */

/* -- the file -----------------------------------------------------------------------------------
 *
 * An address is a segment's number and an offset in it: segments are mapped when first needed, and
 * never move. Segment 0 is the header.
 */

typedef _Atomic uint64_t word;

#define SEGMENT_SHIFT 40
#define OFFSET_MASK ((UINT64_C(1) << SEGMENT_SHIFT) - 1)

/* A change of several words under one lock. It happens when `number` is stored: a process killed
 * before that has changed nothing; after that, the next process to lock completes the change. So no
 * process can leave half a change. */
struct entry {
    uint64_t address, value;
};

struct lock {
    pthread_mutex_t mutex;
    _Atomic uint32_t number; /* of entries that are to be applied, or TAKING; 0 between changes */
    struct entry journal[JOURNAL_ENTRIES];
} __attribute__((aligned(CACHE_LINE)));

struct event {
    _Atomic uint32_t sequence, waiters;
} __attribute__((aligned(CACHE_LINE)));

struct segment { /* all of it is blocks */
    word offset, size;
} __attribute__((aligned(CACHE_LINE)));

/* The position of one side in the log. There are two copies, and the last bit of `version` says which
 * one is valid. A move writes the other copy and then `version`: that one store is the whole move. */
struct side {
    word version; /* records so far << 1 | copy */
    struct position {
        word place; /* the address of the next record to put, or to take */
        word count; /* of messages so far */
        word note;  /* for `recover`: the slot that moved + MAX_SLOTS * its `taken` after the move */
    } at[2];
} __attribute__((aligned(CACHE_LINE)));

enum { SLOT_FREE, SLOT_PROCESS, SLOT_READER, SLOT_LEFT };

struct slot {
    word kind_number; /* kind | number of the process << 8: no two processes ever had the same */
    word pid;         /* of the process, as it is called in its own namespace */
    word alive_by;    /* how its life is known: see life.c */
    word taken;       /* taken by get and not done */
    word leases;
    _Atomic uint32_t waiting;
    _Atomic uint32_t process; /* the slot of a reader's process */
} __attribute__((aligned(CACHE_LINE)));

/* state: what | deaths << 8 | owner << 32. A record at or behind the cursor waits, whatever its
 * state says (a killed taker may have marked it), unless that is WITHDRAWN. A DELAYED record has been
 * returned, too; its bits from 16 on are the moment at which it is due. In a SET_ASIDE record the
 * bits of the owner are marks of the ways in which it was reported (`q_mark`). */
enum { WAITING, LEASED, DONE, RETURNED, SET_ASIDE, WITHDRAWN, DELAYED };

struct record {
    uint32_t bytes; /* of all of it, a multiple of 8 */
    uint32_t kind_size; /* kind << 24 | size of the data that follows */
    word state; /* of a Q_LINK: the address of the next chunk */
};

enum { BLOCK_FREE = 1, BLOCK_OWNED, BLOCK_QUEUED, BLOCK_CHUNK, BLOCK_DEFINITION, BLOCK_KEPT };

/* A block is a power of two of address space, as is its segment, and lies at a multiple of its size.
 * Memory it has for its first `reserved` bytes. One that is kept has some, and waits for a message of
 * its class. One that is free has a page for this, and together with its other half, if that is free
 * too, is one block of the next class. */
struct block {
    word magic_class;    /* MAGIC ^ class */
    word state;          /* what | owner << 32 */
    word next, previous; /* of a free one; of one that is kept only the first */
    word reserved;
    word loose; /* there may be memory behind `reserved`: some is being reserved or given back */
    word fresh; /* its memory has not been written to yet: a hint */
    uint64_t unused;
};

struct header {
    uint64_t magic;
    uint32_t version, abi;
    uint8_t uuid[16];
    uint64_t uid, pid_namespace;
    word maxsize; /* of messages that wait; 0 is no limit. Set under both locks */
    uint64_t header_bytes;
    word shut; /* 1 shut down */
    word last_sweep_ns;
    word num_pickles, loaded[PICKLES_KNOWN]; /* see pickles.c */

    /* Producers: records up to those in `puts` may be read by consumers; the next one goes into
     * `tail_chunk`. */
    struct lock put;
    word tail_chunk, definitions;
    struct side puts;

    /* Consumers: records before those in `gets` were taken once; those before `oldest` are all
     * finished. */
    struct lock get;
    word num_ends_gone, num_leased, num_taken_extra, num_done, num_lost, num_redelivered,
        num_poisoned, num_set_aside, oldest, oldest_chunk, num_chunks, compact_at, num_slots,
        num_processes; /* that ever took part */
    struct side gets;
    word num_returned __attribute__((aligned(CACHE_LINE)));
    word num_delayed; /* of the returned, those that are not to be taken before they are due */
    word next_due_ms; /* none of these is due before; it may be too early */

    struct lock allocate;
    word num_segments, file_bytes;
    word kept_block[NUM_CLASSES], free_block[NUM_CLASSES]; /* the first of each list */
    word kept_bytes, max_kept_bytes; /* the memory of kept blocks; its limit, or Q_CHOSEN */

    struct event events[Q_NUM_EVENTS];

    /* The first chunk, which has room for a link only: a queue into which nothing was put needs no
     * memory for messages. */
    struct block first_chunk __attribute__((aligned(CACHE_LINE)));
    struct record first_link;

    /* Memory is reserved for all fields before this, and for a page of the tables when it is used. */
    struct segment segments[MAX_SEGMENTS] __attribute__((aligned(PAGE)));
    struct slot slots[MAX_SLOTS] __attribute__((aligned(PAGE)));
};

struct large { /* the data of a Q_BLOCK record */
    uint64_t block, size;
};

struct end { /* the data of a Q_END record; its tag follows */
    uint64_t sender;
};

struct definition { /* the content of a BLOCK_DEFINITION; key and data follow */
    uint64_t next;
    uint32_t key_size, reserved;
    uint64_t size;
};

/* -- this process's side ------------------------------------------------------------------------ */

struct q_queue {
    struct header *h;
    int fd;
    uint64_t device, inode; /* the file's, as a program may close a descriptor that it does not know */
    /* Set under the get lock, and looked at without it: such a load pairs with the store. */
    _Atomic uint32_t slot;       /* this process's; 0 before it has one */
    _Atomic uint32_t generation; /* of forks, when it got it */
    uint64_t number;     /* of the process, in its slot */
    void *life;          /* see life.c */
    word owes;           /* whether the slot may own blocks to which nothing here refers any more */
    word is_in_debt;     /* it owns some that are not mapped as the file's: see lent.c */
    /* The last seen counts of the other side, which only grow: so a side reads the cache line to which
     * the other writes only when the last seen count does not suffice. */
    word passed; /* messages of `gets` */
    word known;  /* records of `puts` */
    word num_newly_aside; /* set aside by this process, and not yet reported */
    uint8_t *_Atomic base[MAX_SEGMENTS];
    word bytes[MAX_SEGMENTS];
};

static inline uint64_t here(const q_queue *q, const volatile void *p) {
    return (uint64_t)((const uint8_t *)p - (const uint8_t *)q->h);
}

static inline uint64_t get(const word *w) { return atomic_load_explicit(w, memory_order_acquire); }

static inline void set(word *w, uint64_t value) {
    atomic_store_explicit(w, value, memory_order_release);
}

/* -- sides ---------------------------------------------------------------------------------------- */

static inline uint64_t num_records(const struct side *s) { return get(&s->version) >> 1; }

/* Under the side's lock. */
static inline const struct position *position(const struct side *s) {
    return &s->at[get(&s->version) & 1];
}

/* Without it. */
static inline uint64_t num_messages(const struct side *s) {
    for (;;) {
        uint64_t version = get(&s->version);
        uint64_t count = get(&s->at[version & 1].count); /* acquire: before the next load */
        if (get(&s->version) == version) return count;
    }
}

/* Prepare a move; it has happened when `version` has the value that is returned. */
static inline uint64_t prepare_move(struct side *s, uint64_t records, uint64_t place,
                                    uint64_t count, uint64_t note) {
    uint64_t version = get(&s->version), next = ((version >> 1) + records) << 1 | (~version & 1);
    struct position *p = &s->at[next & 1];
    set(&p->place, place);
    set(&p->count, count);
    set(&p->note, note);
    return next;
}

/* Under the get lock: the end of the records that may be read, `limit` behind `seen` if there are so
 * many. */
static inline uint64_t readable(q_queue *q, uint64_t seen, uint64_t limit) {
    uint64_t records = get(&q->known);
    if ((int64_t)(records - seen) >= (int64_t)limit) return records;
    records = num_records(&q->h->puts); /* acquire: pairs with the release in `publish` */
    set(&q->known, records);
    return records;
}

static inline uint64_t cursor_of(const struct header *h) { return get(&position(&h->gets)->place); }

/* Messages that do not wait any more. */
static inline uint64_t num_gone(const struct header *h) {
    return num_messages(&h->gets) - get(&h->num_returned);
}

/* A page that the kernel empties in a forked child; NULL until it is first needed. */
extern _Atomic uint32_t *fork_page;
extern _Atomic uint32_t fork_count;
uint32_t new_fork_generation(void);

static inline uint32_t fork_generation(void) {
    /* Relaxed: only this process's own threads meet here, and a child begins with one. */
    if (unlikely(!fork_page || !atomic_load_explicit(fork_page, memory_order_relaxed)))
        return new_fork_generation();
    return atomic_load_explicit(&fork_count, memory_order_relaxed);
}

/* -- addresses ---------------------------------------------------------------------------------- */

int map_segment(q_queue *q, unsigned number);

/* The memory at an address, or NULL: nothing in the file is trusted to be right. */
static inline void *at(q_queue *q, uint64_t address, uint64_t bytes) {
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

static inline struct record *record_at(q_queue *q, uint64_t address) {
    struct record *r = address % 8 ? NULL : at(q, address, sizeof *r);
    if (unlikely(!r)) return NULL;
    uint32_t bytes = r->bytes, size = r->kind_size & 0xffffff;
    if (unlikely(bytes % 8 || bytes < sizeof *r || size > bytes - sizeof *r)) return NULL;
    return at(q, address, bytes);
}

static inline uint32_t kind_of(const struct record *r) { return r->kind_size >> 24; }

static inline struct block *block_at(q_queue *q, uint64_t address) {
    struct block *b = address % CACHE_LINE ? NULL : at(q, address, sizeof *b);
    if (unlikely(!b || (get(&b->magic_class) ^ MAGIC) >= NUM_CLASSES)) return NULL;
    return b;
}

static inline unsigned class_of(const struct block *b) {
    return (unsigned)(get(&b->magic_class) ^ MAGIC) % NUM_CLASSES;
}

static inline uint64_t class_bytes(unsigned number) { return CHUNK_BYTES << number; }

void refuse(q_limit limit, int error, uint64_t wanted);
int has_room(uint64_t bytes);
q_status reserve(int fd, uint64_t offset, uint64_t bytes);
q_status allocate(q_queue *q, uint64_t bytes, uint64_t *address, int patient);
q_status release(q_queue *q, uint64_t address, int patient);
uint64_t release_locked(q_queue *q, uint64_t address, struct block *b);
void tidy(q_queue *q, uint64_t address, struct block *b);
void release_surely(q_queue *q, uint64_t address);

/* -- locks and changes -------------------------------------------------------------------------- */

struct change {
    struct lock *lock;
    uint32_t number;
    word *words[JOURNAL_ENTRIES];
};

static inline void begin(struct change *c, struct lock *lock) {
    c->lock = lock;
    c->number = 0; /* and the words are not cleared: that would take as long as the rest */
}

static inline void plan(struct change *c, uint64_t address, word *w, uint64_t value) {
    struct entry *e = &c->lock->journal[c->number];
    e->address = address;
    e->value = value;
    c->words[c->number++] = w;
}

static inline void commit(struct change *c) {
    POINT(1);
    /* Pairs with the load in `recover`, and with all loads of the words. */
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

q_status take_held_lock(q_queue *q, struct lock *lock, int error, int patient);

static inline void unlock(struct lock *lock) { pthread_mutex_unlock(&lock->mutex); }

static inline q_status take_lock(q_queue *q, struct lock *lock, int patient) {
    int error = pthread_mutex_trylock(&lock->mutex);
    /* The journal, not the mutex, says whether a change must be completed: a process that fails to do
     * so, say for want of memory to map, leaves it to the next process that locks. */
    if (likely(!error && !atomic_load_explicit(&lock->number, memory_order_acquire))) return Q_OK;
    return take_held_lock(q, lock, error, patient);
}

q_status take_both(q_queue *q, int patient);
void release_both(q_queue *q);

/* -- waiting ------------------------------------------------------------------------------------ */

int64_t now_ns(void); /* since the machine was started */
void wake_sleepers(q_queue *q, q_event number, uint32_t waiters, uint64_t how_many);

static inline void wake(q_queue *q, q_event number, uint64_t how_many) {
    /* Full, and pairs with the increment in q_announce: either we see the sleeper, or it sees the
     * change that we have just published. */
#if defined(__x86_64__) || defined(__i386__)
    atomic_signal_fence(memory_order_seq_cst); /* the unlock before was a locked instruction */
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
    uint32_t waiters = atomic_load_explicit(&q->h->events[number].waiters, memory_order_relaxed);
    if (unlikely(waiters)) wake_sleepers(q, number, waiters, how_many);
}

/* -- participants ------------------------------------------------------------------------------- */

int is_own_file(const q_queue *q, int fd);
int has_file(const q_queue *q);
uint64_t pid_namespace(void);
q_status begin_life(q_queue *q, uint32_t slot, void **life, uint64_t *alive_by);
void end_life(void *life);
int life_is_over(const q_queue *q, uint32_t slot);

static inline int is_process(uint64_t kind_number) {
    return (kind_number & 0xff) == SLOT_PROCESS || (kind_number & 0xff) == SLOT_LEFT;
}

q_status reserve_entry(const q_queue *q, const void *entry);
q_status take_part(q_queue *q, int patient);
q_status new_slot(q_queue *q, unsigned kind, uint32_t *slot);
q_status sweep(q_queue *q, int patient);

#define TAKE_PART(q, patient)                                                                      \
    do {                                                                                           \
        if (unlikely(!(q)->slot || (q)->generation != fork_generation())) {                        \
            q_status part = take_part(q, patient);                                                 \
            if (part != Q_OK) return part;                                                         \
        }                                                                                          \
    } while (0)

/* -- records ------------------------------------------------------------------------------------ */

static inline uint64_t state_of(unsigned what, uint64_t deaths, uint32_t owner) {
    return what | deaths << 8 | (uint64_t)owner << 32;
}

static inline unsigned what_of(uint64_t state) { return state & 0xff; }

static inline uint64_t deaths_of(uint64_t state) { return state >> 8 & 0xff; }

static inline uint32_t owner_of(uint64_t state) { return (uint32_t)(state >> 32); }

static inline uint64_t delayed_until(uint64_t due_ms, uint64_t deaths) {
    return DELAYED | deaths << 8 | due_ms << 16;
}

static inline uint64_t due_of(uint64_t state) { return state >> 16; }

static inline uint64_t now_ms(void) { return (uint64_t)(now_ns() / 1000000); }

/* The record at an address, or behind the link that is there, which *links counts. */
static inline struct record *follow(q_queue *q, uint64_t *address, uint64_t *links) {
    struct record *r = record_at(q, *address);
    if (r && unlikely(kind_of(r) == Q_LINK)) {
        *address = get(&r->state);
        if (links) ++*links;
        r = record_at(q, *address);
        if (r && kind_of(r) == Q_LINK) return NULL; /* no chunk is empty */
    }
    return r;
}

void reap(q_queue *q);
void compact(q_queue *q);
q_status fill_item(q_queue *q, struct record *r, uint64_t address, uint32_t owner, q_item *item);
struct record *first_returned(q_queue *q, int whenever, uint64_t *address);
q_status take_returned(q_queue *q, uint32_t reader, int whenever, q_item *item);
q_status take_fresh(q_queue *q, uint32_t reader, q_item *items, size_t limit, size_t *number);

enum { CLOSED = 1, DIED, TAKEN, LEFT }; /* marks of slots: how to settle the records of each */

void settle(q_queue *q, const uint8_t *marked);
void forget_delays(q_queue *q);
void plan_done(q_queue *q, struct change *c, uint64_t number);
void plan_block(q_queue *q, struct change *c, struct record *r, uint32_t owner, uint64_t *block);
q_status find_leased(q_queue *q, uint64_t address, uint32_t owner, struct record **found);

#endif
