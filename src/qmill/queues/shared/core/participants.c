/* Participants: the slots of processes and readers. Settles the messages of a process that has died
 * or leaves. */
#include "core.h"

#include <limits.h>
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

/* -- slots -------------------------------------------------------------------------------------- */

/* Under the get lock: make sure that a slot has memory, and is free for a process of this life. */
static q_status prepare_slot(q_queue *q, unsigned kind, uint32_t slot, void **life,
                             uint64_t *alive_by) {
    q_status status = reserve_entry(q, &q->h->slots[slot]);
    if (status != Q_OK || kind != SLOT_PROCESS) return status;
    return begin_life(q, slot, life, alive_by);
}

q_status new_slot(q_queue *q, unsigned kind, uint32_t *slot) { /* under the get lock */
    struct header *h = q->h;
    uint64_t known = get(&h->num_slots), alive_by = 0;
    uint64_t number = kind == SLOT_PROCESS ? get(&h->num_processes) + 1 : q->number;
    if (known > MAX_SLOTS) return Q_CORRUPT;
    for (uint32_t i = 1; i < MAX_SLOTS; i++) {
        struct slot *s = &h->slots[i];
        void *life = NULL;
        if (i < known && get(&s->kind_number) & 0xff) continue;
        q_status status = prepare_slot(q, kind, i, &life, &alive_by);
        if (status == Q_BUSY) continue; /* it was left by a process that lives on */
        if (status != Q_OK) return status;
        struct change c;
        begin(&c, &h->get);
        PLAN(&c, s->pid, (uint64_t)getpid());
        PLAN(&c, s->alive_by, alive_by);
        PLAN(&c, s->taken, 0);
        PLAN(&c, s->leases, 0);
        PLAN(&c, s->kind_number, kind | number << 8);
        if (kind == SLOT_PROCESS) PLAN(&c, h->num_processes, number);
        if (i >= known) PLAN(&c, h->num_slots, i + 1);
        atomic_store(&s->waiting, 0);
        atomic_store(&s->process, kind == SLOT_PROCESS ? i : q->slot);
        commit(&c);
        if (kind == SLOT_PROCESS) {
            q->life = life;
            q->number = number;
        }
        *slot = i;
        return Q_OK;
    }
    return Q_NO_SLOT;
}

/* Get a slot for this process, if it has none. A forked child gets its own. */
q_status take_part(q_queue *q, int patient) {
    uint32_t generation = fork_generation();
    if (likely(q->slot && q->generation == generation)) return Q_OK;
    for (int has_swept = 0;; has_swept = 1) {
        q_status status = take_lock(q, &q->h->get, patient);
        if (status != Q_OK) return status;
        if (q->generation != generation) {
            q->slot = 0; /* it is the parent's, and so is the mapping that holds its lock */
            q->life = NULL;
            q->number = 0;
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

/* -- processes that have died or leave ---------------------------------------------------------- */

/* Mark the slots of processes that are dead, and of their readers; whether there are any. */
static int mark_dead(const q_queue *q, uint8_t *marked) {
    const struct header *h = q->h;
    uint64_t number = get(&h->num_slots);
    int any = 0;
    for (uint32_t i = 1; i < number && i < MAX_SLOTS; i++)
        if (is_process(get(&h->slots[i].kind_number)) && life_is_over(q, i)) any = marked[i] = TAKEN;
    for (uint32_t i = 1; i < number && i < MAX_SLOTS; i++) {
        const struct slot *s = &h->slots[i];
        uint64_t kind_number = get(&s->kind_number);
        uint32_t process = atomic_load(&s->process);
        if ((kind_number & 0xff) != SLOT_READER) continue;
        if (process >= MAX_SLOTS || process >= number || marked[process] ||
            !is_process(get(&h->slots[process].kind_number)) ||
            get(&h->slots[process].kind_number) >> 8 != kind_number >> 8)
            any = marked[i] = DIED;
    }
    return any;
}

/* Under all locks: blocks that belong to slots that are marked are free again, and no killed process
 * leaves memory that is not counted. */
static void free_blocks(q_queue *q, const uint8_t *marked) {
    struct header *h = q->h;
    uint64_t number = get(&h->num_segments);
    for (uint64_t i = 1; i < number && i < MAX_SEGMENTS; i++) {
        uint64_t size = get(&h->segments[i].size), offset = 0;
        while (offset < size) {
            uint64_t address = i << SEGMENT_SHIFT | offset;
            struct block *b = block_at(q, address);
            if (!b) break;
            uint64_t state = get(&b->state), what = state & 0xff;
            if (what == BLOCK_OWNED && owner_of(state) < MAX_SLOTS && marked[owner_of(state)]) {
                address = release_locked(q, address, b);
                b = block_at(q, address);
                if (!b) break;
            } else if (what == BLOCK_FREE || what == BLOCK_KEPT) {
                tidy(q, address, b);
            }
            offset = (address & OFFSET_MASK) + class_bytes(class_of(b));
        }
    }
}

/* Under the get lock: messages that a slot took and did not finish count as done. */
static void settle_taken(q_queue *q, struct slot *s, int died, uint64_t new_kind) {
    struct header *h = q->h;
    uint64_t waiting = num_messages(&h->puts) - num_gone(h);
    /* Below zero if `task_done` has counted messages that still wait. */
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
    PLAN(&c, s->kind_number, new_kind);
    commit(&c);
}

/* Under the get lock, after `settle`: free the marked slots, those of readers first: if this process
 * is killed in between, the slots of their processes still show that the readers are dead. */
static void free_slots(q_queue *q, const uint8_t *marked, int died) {
    uint64_t number = get(&q->h->num_slots);
    for (int processes = 0; processes < 2; processes++) {
        for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++) {
            struct slot *s = &q->h->slots[i];
            if (!marked[i] || (marked[i] == TAKEN) != processes) continue;
            POINT(42);
            settle_taken(q, s, died && (get(&s->kind_number) & 0xff) == SLOT_PROCESS, SLOT_FREE);
        }
    }
}

q_status sweep(q_queue *q, int patient) {
    struct header *h = q->h;
    uint8_t marked[MAX_SLOTS] = {0};
    if (!mark_dead(q, marked)) {
        /* A killed process may have committed a change that has not been applied. */
        q_status status = Q_OK;
        if (atomic_load(&h->put.number) || atomic_load(&h->get.number)) {
            status = take_both(q, patient);
            if (status == Q_OK) release_both(q);
        }
        return status;
    }
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    /* Another process may have swept meanwhile, and the slots may have new owners. */
    memset(marked, 0, sizeof marked);
    mark_dead(q, marked);
    settle(q, marked);
    POINT(41);
    status = take_lock(q, &h->allocate, 1);
    if (status == Q_OK) {
        marked[0] = TAKEN; /* blocks of a process that was killed while it had no slot */
        free_blocks(q, marked);
        unlock(&h->allocate);
        free_slots(q, marked, 1);
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
    if (q->slot) TAKE_PART(q, patient); /* a forked child needs a slot of its own */
    return sweep(q, patient);
}

q_status q_leave(q_queue *q, int keeps, int patient) {
    if (!q->slot || q->generation != fork_generation()) return Q_OK;
    struct header *h = q->h;
    keeps |= get(&q->is_in_debt) != 0;
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    uint8_t marked[MAX_SLOTS] = {0};
    uint64_t number = get(&h->num_slots);
    for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++)
        if (get(&h->slots[i].kind_number) == (SLOT_READER | q->number << 8)) marked[i] = LEFT;
    marked[q->slot] = TAKEN;
    settle(q, marked);
    if (!keeps && get(&q->owes)) {
        /* Not if the allocator is busy: then it is freed when this process has ended. */
        if (take_lock(q, &h->allocate, 1) == Q_OK) {
            free_blocks(q, marked);
            unlock(&h->allocate);
        } else {
            keeps = 1;
        }
    }
    if (keeps) {
        marked[q->slot] = 0;
        settle_taken(q, &h->slots[q->slot], 0, SLOT_LEFT | q->number << 8);
    }
    free_slots(q, marked, 0);
    q->slot = 0;
    set(&q->owes, 0);
    if (!keeps) end_life(q->life);
    q->life = NULL; /* or it lasts as long as this process */
    release_both(q);
    for (int i = 0; i < Q_NUM_EVENTS; i++) wake(q, (q_event)i, INT_MAX);
    return Q_OK;
}
