/* Who takes part: processes and readers. What the dead held is settled, and so is what somebody
 * holds who leaves. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef QMILL_POINTS
void (*q_at_point)(int number);
#endif

#define SWEEP_INTERVAL_NS 90000000LL

/* -- forks: a page that the kernel empties in a child ------------------------------------------- */

_Atomic uint32_t *fork_page;
_Atomic uint32_t fork_count = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void watch_forks(void) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) abort();
    if (madvise(page, 4096, MADV_WIPEONFORK)) abort();
    fork_page = page;
    *fork_page = 1;
}

uint32_t new_fork_generation(void) {
    if (!fork_page) pthread_once(&fork_once, watch_forks);
    if (!atomic_load(fork_page)) {
        atomic_fetch_add(&fork_count, 1);
        atomic_store(fork_page, 1);
    }
    return atomic_load(&fork_count);
}

uint32_t q_fork_generation(void) { return fork_generation(); }

/* -- who takes part ----------------------------------------------------------------------------- */

#define UNKNOWN UINT64_MAX

/* When a process started, in ticks since boot; 0 if it is dead or a zombie, UNKNOWN if /proc cannot
 * be read now, for want of a descriptor, or as it hides the processes of other users: a living one
 * must not be taken for dead. */
static uint64_t start_of(uint64_t pid) {
    char path[40], text[1024];
    snprintf(path, sizeof path, "/proc/%llu/stat", (unsigned long long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT && kill((pid_t)pid, 0) && errno == ESRCH ? 0 : UNKNOWN;
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

q_status new_slot(q_queue *q, unsigned kind, uint32_t *slot) { /* under the get lock */
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
q_status take_part(q_queue *q, int patient) {
    uint32_t generation = fork_generation();
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
    uint64_t waiting = num_messages(&h->puts) - num_gone(h);
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

q_status sweep(q_queue *q, int patient) {
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
    int64_t now = now_ns();
    if (only_if_due && now - (int64_t)get(&h->last_sweep_ns) < SWEEP_INTERVAL_NS &&
        now >= (int64_t)get(&h->last_sweep_ns))
        return Q_OK;
    set(&h->last_sweep_ns, (uint64_t)now);
    if (q->slot) TAKE_PART(q, patient); /* a forked child is not its parent */
    return sweep(q, patient);
}

q_status q_leave(q_queue *q, int patient) {
    if (!q->slot || q->generation != fork_generation()) return Q_OK;
    struct header *h = q->h;
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    uint8_t marked[MAX_SLOTS] = {0};
    uint64_t number = get(&h->num_slots), started = get(&h->slots[q->slot].started);
    for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++) {
        struct slot *s = &h->slots[i];
        uint64_t kind_pid = get(&s->kind_pid);
        if (kind_pid >> 8 != q->pid || get(&s->started) != started) continue;
        if ((kind_pid & 0xff) == SLOT_READER) marked[i] = LEFT;
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
