/* Ends leases: when a reader finishes or gives back a message, closes, or dies. */
#include "core.h"

#include <limits.h>

/* Under the get lock: whether the first waiting record is an END, for which a reader may wait. */
static int end_is_first(q_queue *q) {
    struct header *h = q->h;
    uint64_t address = cursor_of(h);
    uint64_t seen = num_records(&h->gets);
    if (readable(q, seen, 1) == seen) return 0;
    struct record *r = follow(q, &address, NULL);
    return r && kind_of(r) == Q_END;
}

uint64_t q_unfinished(const q_queue *q) {
    uint64_t done = get(&q->h->num_done), put = num_messages(&q->h->puts);
    return put - done;
}

/* Under the get lock: plan that messages are finished. `task_done` may have counted some before they
 * were taken, so fewer may be unfinished. */
void plan_done(q_queue *q, struct change *c, uint64_t number) {
    /* The messages taken were all put: mostly their count suffices, and the cache line to which
     * producers write is not read. */
    uint64_t left = get(&position(&q->h->gets)->count) - get(&q->h->num_done);
    if ((int64_t)left < (int64_t)number) left = q_unfinished(q);
    PLAN(c, q->h->num_done, get(&q->h->num_done) + (number < left ? number : left));
}

/* Under the get lock: find a record that this owner has leased; Q_EMPTY if it has no such lease. */
q_status find_leased(q_queue *q, uint64_t address, uint32_t owner, struct record **found) {
    struct record *r = record_at(q, address);
    if (!r) return Q_CORRUPT;
    uint64_t state = get(&r->state);
    if (what_of(state) != LEASED || owner_of(state) != owner) return Q_EMPTY;
    *found = r;
    return Q_OK;
}

void plan_block(q_queue *q, struct change *c, struct record *r, uint32_t owner,
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


/* Under the get lock: a leased record waits again, with this state. If its taker `got` it, this counts
 * as a redelivery; else it is as if the record had not been taken. */
static void put_back(q_queue *q, struct record *r, uint64_t address, uint64_t state, uint32_t owner,
                     int was_lease, int got) {
    struct header *h = q->h;
    struct slot *s = &h->slots[owner];
    struct change c;
    begin(&c, &h->get);
    plan(&c, address + offsetof(struct record, state), &r->state, state);
    PLAN(&c, h->num_returned, get(&h->num_returned) + 1);
    if (what_of(state) == DELAYED) {
        uint64_t others = get(&h->num_delayed), next = get(&h->next_due_ms), due = due_of(state);
        PLAN(&c, h->num_delayed, others + 1);
        PLAN(&c, h->next_due_ms, others && next < due ? next : due);
    }
    if (was_lease) {
        PLAN(&c, s->leases, get(&s->leases) - 1);
        PLAN(&c, h->num_leased, get(&h->num_leased) - 1);
    } else if (get(&s->taken)) {
        PLAN(&c, s->taken, get(&s->taken) - 1);
    }
    if (got)
        PLAN(&c, h->num_redelivered, get(&h->num_redelivered) + 1);
    else
        PLAN(&c, h->num_taken_extra, get(&h->num_taken_extra) - 1);
    commit(&c);
}

static q_status give_back(q_queue *q, uint32_t owner, uint64_t record, int was_lease, int got,
                          uint64_t due_ms, int patient) {
    if (q->generation != fork_generation()) return Q_OK;
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    struct record *r;
    status = find_leased(q, record, owner, &r);
    if (status == Q_OK) {
        uint64_t deaths = deaths_of(get(&r->state));
        uint64_t state = due_ms ? delayed_until(due_ms, deaths) : state_of(RETURNED, deaths, 0);
        put_back(q, r, record, state, owner, was_lease, got);
    }
    unlock(&h->get);
    /* All sleepers have to know when the record is due. */
    if (status == Q_OK) wake(q, Q_ITEMS, due_ms ? INT_MAX : 1);
    return status;
}

q_status q_give_back(q_queue *q, const q_item *item, int patient) {
    return give_back(q, item->owner, item->record, 0, 0, 0, patient);
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
    if (q->generation != fork_generation() || get(&s->kind_number) != (SLOT_READER | q->number << 8))
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
    if (q->generation != fork_generation()) return Q_OK;
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

q_status q_next(q_queue *q, uint32_t reader, uint64_t lease, q_item *item, int patient) {
    if (q->generation != fork_generation()) return Q_EMPTY;
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    const struct position *p = position(&h->gets);
    uint64_t cursor = get(&p->place), count = get(&p->count);
    struct record *finished, *r = NULL;
    uint64_t seen = num_records(&h->gets);
    if (readable(q, seen, 1) != seen && !get(&h->num_returned))
        r = record_at(q, cursor);
    if (!r || kind_of(r) != Q_INLINE || find_leased(q, lease, reader, &finished) != Q_OK ||
        kind_of(finished) != Q_INLINE) {
        unlock(&h->get);
        return Q_EMPTY;
    }
    fill_item(q, r, cursor, reader, item);
    /* Before the commit the mark means nothing: see `struct record`. */
    atomic_store_explicit(&r->state, state_of(LEASED, 0, reader), memory_order_relaxed);
    struct change c; /* the reader's leases are as many as before */
    begin(&c, &h->get);
    plan(&c, lease + offsetof(struct record, state), &finished->state, DONE);
    plan_done(q, &c, 1);
    PLAN(&c, h->gets.version, prepare_move(&h->gets, 1, cursor + r->bytes, count + 1, 0));
    commit(&c);
    unlock(&h->get);
    if (get(&h->maxsize)) wake(q, Q_SPACE, 1);
    return Q_OK;
}

q_status q_lease_give_back(q_queue *q, uint32_t reader, uint64_t record, int patient) {
    q_status status = give_back(q, reader, record, 1, 0, 0, patient);
    return status == Q_EMPTY ? Q_OK : status;
}

q_status q_release(q_queue *q, uint32_t reader, uint64_t record, uint64_t delay_ms, int patient) {
    /* One more, as a part of a millisecond has gone. */
    uint64_t due_ms = delay_ms ? now_ms() + delay_ms + 1 : 0;
    return give_back(q, reader, record, 1, 1, due_ms, patient);
}

/* Under the get lock: the next record from an address on that is leased to a reader whose slot is
 * marked, or NULL at the cursor. */
static struct record *next_leased(q_queue *q, uint64_t *address, const uint8_t *marked) {
    uint64_t cursor = cursor_of(q->h);
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

/* Under the get lock: settle all that the marked slots hold. */
void settle(q_queue *q, const uint8_t *marked) {
    struct header *h = q->h;
    uint64_t address = get(&h->oldest);
    struct record *r;
    while ((r = next_leased(q, &address, marked))) {
        uint64_t state = get(&r->state), block = 0, deaths = deaths_of(state) + 1;
        uint32_t owner = owner_of(state);
        if (marked[owner] == CLOSED) { /* its loop was left, and these were not handed out */
            put_back(q, r, address, state_of(RETURNED, deaths - 1, 0), owner, 1, 0);
        } else if (marked[owner] == TAKEN) { /* its `taken` has it, and is settled by its slot */
            struct change c;
            begin(&c, &h->get);
            plan_block(q, &c, r, owner, &block);
            plan(&c, address + offsetof(struct record, state), &r->state, DONE);
            commit(&c);
            /* The block is freed with all that the slot owns, when its process is dead or leaves. */
            if (owner == q->slot) set(&q->owes, 1);
        } else if (marked[owner] == LEFT) { /* its process ended normally: no death */
            put_back(q, r, address, state_of(RETURNED, deaths - 1, 0), owner, 1, 1);
        } else if (deaths < POISON_DEATHS) {
            put_back(q, r, address, state_of(RETURNED, deaths, 0), owner, 1, 1);
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
            atomic_fetch_add(&q->num_newly_aside, 1);
        }
        POINT(40);
    }
}

q_status q_reader_close(q_queue *q, uint32_t reader, int patient) {
    if (q->generation != fork_generation() || !reader || reader >= MAX_SLOTS) return Q_OK;
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    struct slot *s = &h->slots[reader];
    if (get(&s->kind_number) == (SLOT_READER | q->number << 8)) {
        if (get(&s->leases)) {
            uint8_t marked[MAX_SLOTS] = {0};
            marked[reader] = CLOSED;
            settle(q, marked);
        }
        struct change c;
        begin(&c, &h->get);
        PLAN(&c, s->kind_number, SLOT_FREE);
        commit(&c);
    }
    unlock(&h->get);
    wake(q, Q_ITEMS, INT_MAX);
    if (!q_unfinished(q)) wake(q, Q_IDLE, INT_MAX);
    return Q_OK;
}

/* -- records set aside --------------------------------------------------------------------------- */

uint64_t q_newly_aside(q_queue *q) {
    return get(&q->num_newly_aside) ? atomic_exchange(&q->num_newly_aside, 0) : 0;
}

/* Under the get lock: the first record from an address on that is in this state and has none of these
 * marks; NULL if there is none. */
static struct record *next_in(q_queue *q, uint64_t *address, unsigned what, uint32_t without) {
    uint64_t cursor = cursor_of(q->h);
    while (*address != cursor) {
        struct record *r = record_at(q, *address);
        if (!r) return NULL;
        uint64_t state = get(&r->state);
        if (kind_of(r) == Q_LINK) {
            *address = state;
            continue;
        }
        if (what_of(state) == what && !(owner_of(state) & without)) return r;
        *address += r->bytes;
    }
    return NULL;
}

q_status q_look_aside(q_queue *q, uint64_t skip, q_mark mark, q_aside *found, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    struct record *r = NULL;
    uint64_t address = get(&h->oldest);
    if (get(&h->num_set_aside)) {
        r = next_in(q, &address, SET_ASIDE, mark);
        for (; r && skip; skip--) {
            address += r->bytes;
            r = next_in(q, &address, SET_ASIDE, mark);
        }
    }
    q_item item;
    status = r ? fill_item(q, r, address, 0, &item) : Q_EMPTY;
    if (status == Q_OK) {
        uint64_t state = get(&r->state);
        found->record = address;
        found->deaths = deaths_of(state);
        found->size = item.size;
        if (item.size <= found->capacity) {
            memcpy(found->into, item.data, item.size);
            /* The marks are only read here, under this lock. */
            set(&r->state, state | (uint64_t)mark << 32);
        }
    }
    unlock(&h->get);
    return status;
}

q_status q_requeue(q_queue *q, uint64_t record, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    struct record *r = NULL;
    uint64_t address = get(&h->oldest); /* the record may have gone since it was listed */
    while ((r = next_in(q, &address, SET_ASIDE, 0)) && address != record) address += r->bytes;
    if (r) {
        struct change c;
        begin(&c, &h->get);
        plan(&c, address + offsetof(struct record, state), &r->state, state_of(RETURNED, 0, 0));
        PLAN(&c, h->num_set_aside, get(&h->num_set_aside) - 1);
        PLAN(&c, h->num_returned, get(&h->num_returned) + 1);
        PLAN(&c, h->num_redelivered, get(&h->num_redelivered) + 1);
        PLAN(&c, h->num_done, get(&h->num_done) - 1);
        commit(&c);
    }
    unlock(&h->get);
    if (r) wake(q, Q_ITEMS, 1);
    return r ? Q_OK : Q_EMPTY;
}

/* A process that adopts a file cannot know the remaining delays, as the clock may be another one
 * since: delayed records are due at once. */
void forget_delays(q_queue *q) {
    struct header *h = q->h;
    if (!get(&h->num_delayed) || take_lock(q, &h->get, 1) != Q_OK) return;
    uint64_t address;
    struct record *r;
    for (address = get(&h->oldest); (r = next_in(q, &address, DELAYED, 0)); address += r->bytes) {
        struct change c;
        begin(&c, &h->get);
        plan(&c, address + offsetof(struct record, state), &r->state,
             state_of(RETURNED, deaths_of(get(&r->state)), 0));
        PLAN(&c, h->num_delayed, get(&h->num_delayed) - 1);
        commit(&c);
    }
    unlock(&h->get);
}
