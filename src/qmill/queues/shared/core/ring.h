/* One queue in shared memory, for any number of processes that may be killed at any instruction.
 *
 * Everything here works on one open file: a log of records that producers append to and consumers
 * take from, blocks for large messages, counts, leases, and slots for processes and readers.
 * docs/design.md has the picture and the reasons. There is no Python in here.
 *
 * A call returns a `q_status`. A call that would have to wait returns Q_EMPTY, Q_FULL, Q_NOT_YET or
 * Q_BUSY instead. Its caller then sleeps with `q_announce`, another try, and `q_sleep`, and so keeps
 * control over signals, deadlines and locks of its own.
 */
#ifndef QMILL_RING_H
#define QMILL_RING_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    Q_OK = 0,
    Q_EMPTY,     /* nothing to take */
    Q_FULL,      /* no room */
    Q_SHUT,      /* shut down (and, for a taker, empty) */
    Q_NOT_YET,   /* an END is first, and an earlier message may still come back */
    Q_BUSY,      /* a lock is held by another thread, which may be stopped by a signal */
    Q_NO_MEMORY, /* the system gives no more memory, or no room for its file */
    Q_NO_SLOT,   /* more processes and readers than the table holds */
    Q_CORRUPT,   /* the file has values that cannot be right */
    Q_FOREIGN,   /* the file is no queue that this process may use */
    Q_TOO_OFTEN, /* task_done, and nothing is unfinished */
    Q_SYSTEM,    /* see errno */
} q_status;

typedef enum { Q_ITEMS, Q_SPACE, Q_IDLE, Q_NUM_EVENTS } q_event;

typedef enum { Q_INLINE = 1, Q_BLOCK, Q_END, Q_LINK } q_kind;

typedef struct q_queue q_queue; /* this process's mapping of one queue */

/* A taken record. `data` may be read until q_done, q_give_back or the end of the lease. */
typedef struct {
    uint32_t kind;
    uint32_t owner;  /* the slot that took it */
    uint64_t record; /* its address, which is also the name of its lease */
    uint64_t block;  /* of a large one, else 0 */
    const void *data;
    uint64_t size;
} q_item;

typedef struct {
    uint64_t size, leased, unfinished, put, taken, done, lost, redelivered, poisoned, maxsize;
} q_counts;

/* q_create makes a queue in an empty file; the others attach to the queue that is there: q_attach to
 * one with this uuid, or with any if it is NULL; q_receive to one that a related process has sent;
 * q_adopt to one that no other process has open. The file has to be this user's, except with a uuid,
 * which no other user can know, and with q_receive: the sender may have changed its user. All own
 * `fd` from then on if they return Q_OK. */
q_status q_create(int fd, uint64_t maxsize, const uint8_t uuid[16], q_queue **made);
q_status q_attach(int fd, const uint8_t uuid[16], q_queue **made);
q_status q_receive(int fd, q_queue **made);
q_status q_adopt(int fd, q_queue **made);
void q_detach(q_queue *q);
int q_fd(const q_queue *q);
const uint8_t *q_uuid(const q_queue *q);
uint64_t q_maxsize(const q_queue *q);
q_status q_set_maxsize(q_queue *q, uint64_t maxsize, int patient); /* for every process */
uint32_t q_fork_generation(void);

/* The last shortage that this thread has met since it last called q_refused. */
typedef enum {
    Q_NO_LIMIT = 0,
    Q_MAPPING,  /* `mmap` gave `error` */
    Q_FILE,     /* the file did not grow: `error` */
    Q_GROUP,    /* a control group of this process: `used` of `most` bytes */
    Q_SEGMENTS, /* larger than any block, or the table of segments is full */
} q_limit;
typedef struct {
    q_limit limit;
    int error;
    uint64_t wanted, used, most;
} q_refusal;
q_refusal q_refused(void);

/* The files of one control group: its limit in bytes, the bytes in use, and details. q_watch_groups
 * takes those of all groups to check from now on, in place of the earlier ones. */
typedef struct {
    const char *most, *used, *details;
} q_group;
int q_watch_groups(const q_group *groups, size_t number);

/* `patient` calls wait up to 0.1 s for a lock; the others return Q_BUSY at once. */
q_status q_put(q_queue *q, const void *data, uint64_t size, int patient);
/* Several small messages, as far as there is room; *done counts on. */
typedef struct {
    const void *data;
    uint64_t size;
    uint64_t block; /* of a large one, filled by the caller; data is ignored */
    const void *head; /* bytes before the data of a small one, or NULL */
    uint64_t head_size;
} q_message;
q_status q_put_many(q_queue *q, const q_message *messages, size_t number, size_t *done,
                    int patient);
uint64_t q_inline_max(void); /* larger messages go into blocks */
q_status q_block_new(q_queue *q, uint64_t size, uint64_t *block, void **data, int patient);
void q_block_write(q_queue *q, uint64_t block, uint64_t offset, const void *data, uint64_t size);
q_status q_block_free(q_queue *q, uint64_t block, int patient);
/* The most bytes of free memory that are kept for the next messages, or Q_CHOSEN for the default;
 * q_trim gives all of it back to the system. */
#define Q_CHOSEN UINT64_MAX
uint64_t q_max_kept(const q_queue *q);
q_status q_set_max_kept(q_queue *q, uint64_t bytes, int patient); /* for every process */
q_status q_trim(q_queue *q, uint64_t *given, int patient);

/* A block whose memory objects of this process use, from the moment its record is done until the
 * block is given back. A forked child has the memory as it was at the fork. */
typedef struct q_lent {
    q_queue *q;
    uint64_t block, bytes;
    uint8_t *start;
    enum { LENT_SHARED, LENT_PARTLY_PRIVATE, LENT_PRIVATE } pages;
    uint32_t generation; /* of forks: a child has a copy, and no block */
    struct q_lent *next, *previous;
} q_lent;
void q_lend(q_queue *q, const q_item *item, q_lent *lent);
void q_lent_back(q_lent *lent);

q_status q_take(q_queue *q, uint32_t reader, q_item *items, size_t limit, size_t *number,
                int patient);
q_status q_done(q_queue *q, const q_item *item, int patient); /* the caller owns its block then */
/* Finish the items before the first that is in a block; return how many these are. */
size_t q_done_many(q_queue *q, const q_item *items, size_t number);
q_status q_give_back(q_queue *q, const q_item *item, int patient);
q_status q_peek(q_queue *q, void *into, uint64_t capacity, uint64_t *size, uint32_t *kind,
                int patient);

q_status q_reader_new(q_queue *q, uint32_t *reader, int patient);
q_status q_reader_waits(q_queue *q, uint32_t reader, int waits);
q_status q_lease_done(q_queue *q, uint32_t reader, uint64_t record, int patient);
/* End a lease and take the next one, in one go; Q_EMPTY if that takes more than a step of each. */
q_status q_next(q_queue *q, uint32_t reader, uint64_t lease, q_item *item, int patient);
q_status q_lease_give_back(q_queue *q, uint32_t reader, uint64_t record, int patient);
/* End a lease of a message that the reader's loop has had: it waits again, and is not taken before
 * the delay is over. Q_EMPTY if there is no such lease. */
q_status q_release(q_queue *q, uint32_t reader, uint64_t record, uint64_t delay_ms, int patient);
q_status q_reader_close(q_queue *q, uint32_t reader, int patient);

q_status q_end(q_queue *q, const void *tag, uint32_t size, int patient);
q_status q_withdraw(q_queue *q, const void *tag, uint32_t size, uint64_t *number, int patient);
q_status q_task_done(q_queue *q, int patient);
q_status q_shutdown(q_queue *q, int immediate, int patient);
q_status q_statistics(q_queue *q, q_counts *counts, int patient);
uint64_t q_unfinished(const q_queue *q);
int q_full(q_queue *q);
int q_is_shut(const q_queue *q);

/* Messages that were set aside. A caller that reports them marks them, so that it finds each once. */
typedef enum { Q_ANY = 0, Q_RAISED = 1, Q_LOGGED = 2 } q_mark;
typedef struct {
    void *into; /* takes the message if it has room for it */
    uint64_t capacity, size, record, deaths;
} q_aside;
/* Copy the next one after the first `skip`; mark it if there is room for it. Q_EMPTY at the end. */
q_status q_look_aside(q_queue *q, uint64_t skip, q_mark mark, q_aside *found, int patient);
q_status q_requeue(q_queue *q, uint64_t record, int patient); /* Q_EMPTY if it is not set aside */
uint64_t q_newly_aside(q_queue *q); /* how many this process has set aside since it last asked */

q_status q_define(q_queue *q, const void *key, uint32_t key_size, const void *data, uint64_t size,
                  int patient);
q_status q_fetch(q_queue *q, const void *key, uint32_t key_size, const void **data,
                 uint64_t *size);

uint32_t q_announce(q_queue *q, q_event event);
void q_sleep(q_queue *q, q_event event, uint32_t sequence, int64_t nanoseconds);
uint64_t q_size_hint(const q_queue *q); /* how many wait, give or take a few */
/* The thread that holds a lock now, or 0. `lock`: 0 producers', 1 consumers', 2 allocator's. */
uint32_t q_holder(const q_queue *q, unsigned lock);
/* Poll for a few microseconds for Q_ITEMS or Q_SPACE; return whether to try again, a guess. */
int q_watch(q_queue *q, q_event event);

/* Number a pickle of the queue; note that one was loaded; return whether it was. */
uint64_t q_pickle_new(q_queue *q);
void q_pickle_loaded(q_queue *q, uint64_t pickle);
int q_pickle_is_loaded(const q_queue *q, uint64_t pickle);

q_status q_sweep(q_queue *q, int only_if_due, int patient); /* settle messages of dead processes */
/* End this process's part: messages that it took count as done, leased ones go back. If it `keeps`
 * memory of messages, its slot stays until the process ends. */
q_status q_leave(q_queue *q, int keeps, int patient);

#ifdef QMILL_POINTS
extern void (*q_at_point)(int number); /* called at each numbered point, for tests that kill */
#endif

#endif
