/* Operations that hold both locks: withdraw ENDs, shut down, change the limit, count. */
#include "core.h"

#include <limits.h>

q_status q_withdraw(q_queue *q, const void *tag, uint32_t size, uint64_t *number, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    *number = 0;
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    uint64_t address = cursor_of(h), seen = num_records(&h->gets);
    for (; seen != num_records(&h->puts); seen++) {
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

/* Under both locks: throw away all waiting messages. */
static q_status discard(q_queue *q) {
    struct header *h = q->h;
    for (;;) {
        q_item item;
        size_t number = 0;
        q_status status = get(&h->num_returned) ? take_returned(q, 0, 1, &item)
                                                : take_fresh(q, 0, &item, 1, &number);
        if (status == Q_EMPTY) return Q_OK;
        if (status == Q_NOT_YET) { /* an END: after a shutdown no reader waits for it */
            uint64_t address = cursor_of(h);
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

/* Under both locks, so that no wake-up is lost: a consumer that saw the old limit may have woken no
 * producer. A producer that finds the new limit reached has seen all that such a consumer took. */
q_status q_set_maxsize(q_queue *q, uint64_t maxsize, int patient) {
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    POINT(60);
    set(&q->h->maxsize, maxsize);
    POINT(61);
    release_both(q);
    wake(q, Q_SPACE, INT_MAX);
    return Q_OK;
}

q_status q_statistics(q_queue *q, q_counts *counts, int patient) {
    struct header *h = q->h;
    q_status status = take_both(q, patient);
    if (status != Q_OK) return status;
    uint64_t gone = num_gone(h);
    counts->put = num_messages(&h->puts);
    counts->size = num_records(&h->puts) - gone - get(&h->num_ends_gone);
    counts->leased = get(&h->num_leased);
    counts->done = get(&h->num_done);
    counts->unfinished = counts->put - counts->done;
    /* Messages that have gone were taken; those that came back were taken more than once. */
    counts->taken = gone + get(&h->num_returned) + get(&h->num_taken_extra);
    counts->lost = get(&h->num_lost);
    counts->redelivered = get(&h->num_redelivered);
    counts->poisoned = get(&h->num_poisoned);
    counts->maxsize = get(&h->maxsize);
    release_both(q);
    return Q_OK;
}
