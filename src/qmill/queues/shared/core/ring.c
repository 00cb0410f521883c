/* Puts and takes messages: producers append to the log, consumers read on; each side has a lock. */
#include "core.h"

uint64_t q_size_hint(const q_queue *q) {
    uint64_t seen = num_records(&q->h->gets); /* first: the difference is never negative */
    return num_records(&q->h->puts) - seen + get(&q->h->num_returned);
}

/* -- putting ------------------------------------------------------------------------------------ */

struct appended { /* records behind the tail that are not published yet */
    uint64_t tail, chunk, number;
};

/* Find room for a record of `bytes` bytes behind the tail, in a new chunk if need be. */
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
    if (size) memcpy(r + 1, data, size); /* of an empty one `data` may be NULL */
    if (likely(more_size)) memcpy((uint8_t *)(r + 1) + size, more, more_size);
    a->tail += bytes;
    a->number++;
    return Q_OK;
}

/* Consumers see the records by the last store; all other planned changes have happened by then. */
static void publish(q_queue *q, struct change *c, struct appended *a, uint64_t messages) {
    struct side *s = &q->h->puts;
    uint64_t count = get(&position(s)->count) + messages;
    uint64_t version = prepare_move(s, a->number, a->tail, count, 0);
    a->number = 0;
    if (c->number) {
        PLAN(c, s->version, version);
        commit(c);
        return;
    }
    POINT(22);
    set(&s->version, version);
    POINT(23);
}

/* The number of messages that may be put now, after `num_put` so far. */
static uint64_t room(q_queue *q, uint64_t num_put) {
    struct header *h = q->h;
    uint64_t maxsize = get(&h->maxsize); /* read once: without the lock it may change */
    if (!maxsize) return UINT64_MAX;
    for (int looked = 0;; looked = 1) {
        int64_t waiting = (int64_t)(num_put - get(&q->passed) + get(&h->num_returned));
        if (waiting < (int64_t)maxsize) return maxsize - (uint64_t)waiting;
        if (looked) return 0;
        set(&q->passed, num_messages(&h->gets)); /* rarely: consumers write to this cache line */
    }
}

int q_full(q_queue *q) { return room(q, num_messages(&q->h->puts)) == 0; }

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
    struct appended a = {get(&position(&h->puts)->place), get(&h->tail_chunk), 0};
    uint64_t free_places = room(q, get(&position(&h->puts)->count)), before = *done, in_change = 0;
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
            set(&b->fresh, 0);
            plan(&c, m->block + offsetof(struct block, state), &b->state, BLOCK_QUEUED);
        } else {
            status = append(q, &c, &a, Q_INLINE, m->head, (uint32_t)m->head_size, m->data,
                            (uint32_t)m->size);
            if (status != Q_OK) break;
        }
        in_change++;
        if (c.number > JOURNAL_ENTRIES - 4) { /* a record may need three, publishing one */
            publish(q, &c, &a, in_change);
            *done += in_change;
            free_places -= in_change;
            in_change = 0;
        }
    }
    if (in_change) {
        publish(q, &c, &a, in_change);
        *done += in_change;
    } else {
        c.number = 0;
        if (a.chunk != get(&h->tail_chunk)) set(&q->owes, 1); /* it is ours, and not linked */
    }
    unlock(&h->put);
    if (*done > before) wake(q, Q_ITEMS, *done - before);
    return status;
}

q_status q_put(q_queue *q, const void *data, uint64_t size, int patient) {
    struct header *h = q->h;
    q_status status = take_lock(q, &h->put, patient);
    if (unlikely(status != Q_OK)) return status;
    POINT(21);
    const struct position *p = position(&h->puts);
    uint64_t tail = get(&p->place), count = get(&p->count);
    uint64_t bytes = (sizeof(struct record) + size + 7) & ~UINT64_C(7);
    struct record *r = NULL;
    if (likely(!get(&h->shut) && tail % 8 == 0 && size <= INLINE_MAX &&
               tail + bytes + sizeof *r <= get(&h->tail_chunk) + CHUNK_BYTES && room(q, count)))
        r = at(q, tail, bytes);
    if (unlikely(!r)) { /* slow path: shut down, full, large, a new chunk, or corrupt */
        q_message message = {data, size, 0, NULL, 0};
        size_t done = 0;
        unlock(&h->put);
        return q_put_many(q, &message, 1, &done, patient);
    }
    r->bytes = (uint32_t)bytes;
    r->kind_size = Q_INLINE << 24 | (uint32_t)size;
    atomic_store_explicit(&r->state, WAITING, memory_order_relaxed); /* published by the next */
    if (likely(size)) memcpy(r + 1, data, size); /* of an empty one `data` may be NULL */
    uint64_t version = prepare_move(&h->puts, 1, tail + bytes, count + 1, 0);
    POINT(22);
    set(&h->puts.version, version);
    POINT(23);
    unlock(&h->put);
    wake(q, Q_ITEMS, 1);
    return Q_OK;
}

q_status q_end(q_queue *q, const void *tag, uint32_t size, int patient) {
    TAKE_PART(q, patient);
    struct header *h = q->h;
    if (size > 256) return Q_CORRUPT;
    q_status status = take_lock(q, &h->put, patient);
    if (status != Q_OK) return status;
    struct change c;
    begin(&c, &h->put);
    struct appended a = {get(&position(&h->puts)->place), get(&h->tail_chunk), 0};
    struct end end = {q->number};
    status = append(q, &c, &a, Q_END, &end, sizeof end, tag, size);
    if (status == Q_OK) publish(q, &c, &a, 0);
    unlock(&h->put);
    if (status == Q_OK) wake(q, Q_ITEMS, 1);
    return status;
}

/* -- taking ------------------------------------------------------------------------------------- */
q_status fill_item(q_queue *q, struct record *r, uint64_t address, uint32_t owner,
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

/* Under the get lock: whether an END of this sender may be given to a process. */
static int end_is_ready(q_queue *q, uint64_t sender) {
    struct header *h = q->h;
    if (get(&h->num_delayed)) return 0; /* an earlier message, which a reader is still to get */
    if (!get(&h->num_leased)) return 1;
    uint64_t number = get(&h->num_slots);
    for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++) {
        struct slot *s = &h->slots[i];
        uint64_t kind_number = get(&s->kind_number), process = kind_number >> 8;
        if ((kind_number & 0xff) != SLOT_READER || !get(&s->leases)) continue;
        if (process != sender && process != q->number && !atomic_load(&s->waiting)) return 0;
    }
    return 1;
}

/* Under the get lock: the oldest record that came back and is due, or `whenever` it is; NULL if there
 * is none. */
struct record *first_returned(q_queue *q, int whenever, uint64_t *address) {
    struct header *h = q->h;
    uint64_t cursor = cursor_of(h), now = 0, next_due = UINT64_MAX;
    if (get(&h->num_delayed)) {
        now = now_ms();
        if (!whenever && get(&h->num_delayed) == get(&h->num_returned) &&
            get(&h->next_due_ms) > now)
            return NULL;
    }
    *address = get(&h->oldest);
    while (*address != cursor) {
        struct record *r = record_at(q, *address);
        if (!r) return NULL;
        uint64_t state = get(&r->state);
        if (kind_of(r) == Q_LINK) {
            *address = state;
            continue;
        }
        if (what_of(state) == RETURNED) return r;
        if (what_of(state) == DELAYED) {
            if (whenever || due_of(state) <= now) return r;
            if (due_of(state) < next_due) next_due = due_of(state);
        }
        *address += r->bytes;
    }
    set(&h->next_due_ms, next_due);
    return NULL;
}

/* Under the get lock: take the first that came back; Q_EMPTY if none is due. */
q_status take_returned(q_queue *q, uint32_t reader, int whenever, q_item *item) {
    struct header *h = q->h;
    uint64_t address;
    struct record *r = first_returned(q, whenever, &address);
    if (!r) return get(&h->num_delayed) ? Q_EMPTY : Q_CORRUPT;
    uint32_t owner = reader ? reader : q->slot;
    q_status status = fill_item(q, r, address, owner, item);
    if (status != Q_OK) return status;
    uint64_t state = get(&r->state);
    struct slot *s = &h->slots[owner];
    struct change c;
    begin(&c, &h->get);
    plan(&c, address + offsetof(struct record, state), &r->state,
         state_of(LEASED, deaths_of(state), owner));
    PLAN(&c, h->num_returned, get(&h->num_returned) - 1);
    if (what_of(state) == DELAYED) PLAN(&c, h->num_delayed, get(&h->num_delayed) - 1);
    PLAN(&c, h->num_taken_extra, get(&h->num_taken_extra) + 1);
    if (reader) {
        PLAN(&c, s->leases, get(&s->leases) + 1);
        PLAN(&c, h->num_leased, get(&h->num_leased) + 1);
    } else {
        PLAN(&c, s->taken, get(&s->taken) + 1);
    }
    commit(&c);
    return Q_OK;
}

q_status take_fresh(q_queue *q, uint32_t reader, q_item *items, size_t limit,
                           size_t *number) {
    struct header *h = q->h;
    uint32_t owner = reader ? reader : q->slot;
    struct slot *s = &h->slots[owner];
    struct change c;
    begin(&c, &h->get);
    uint64_t before = num_records(&h->gets), seen = before, records = readable(q, seen, limit);
    uint64_t cursor = cursor_of(h), borders = 0, messages = 0;
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
    if (seen == before) return status == Q_OK ? Q_EMPTY : status;
    if (messages) {
        if (reader) {
            PLAN(&c, s->leases, get(&s->leases) + messages);
            PLAN(&c, h->num_leased, get(&h->num_leased) + messages);
        } else {
            PLAN(&c, s->taken, get(&s->taken) + messages);
        }
    }
    if (unlikely(borders)) PLAN(&c, h->num_chunks, get(&h->num_chunks) + borders);
    uint64_t count = get(&position(&h->gets)->count) + messages;
    PLAN(&c, h->gets.version, prepare_move(&h->gets, seen - before, cursor, count, 0));
    commit(&c);
    if (unlikely(borders)) {
        reap(q);
        if (get(&h->num_chunks) > get(&h->compact_at)) compact(q);
    }
    return *number ? Q_OK : status == Q_OK ? Q_EMPTY : status;
}

/* Under the get lock: take the next record for this process if it is one of the usual kind. */
static int take_one(q_queue *q, q_item *item) {
    struct header *h = q->h;
    uint64_t version = get(&h->gets.version), taken = get(&h->slots[q->slot].taken);
    if (readable(q, version >> 1, 1) == version >> 1) return 0;
    const struct position *p = &h->gets.at[version & 1];
    uint64_t cursor = get(&p->place), count = get(&p->count);
    struct record *r = record_at(q, cursor);
    if (unlikely(!r || kind_of(r) != Q_INLINE)) return 0;
    item->kind = Q_INLINE;
    item->owner = q->slot;
    item->record = cursor;
    item->block = 0;
    item->data = r + 1;
    item->size = r->kind_size & 0xffffff;
    /* Before the commit the mark means nothing: see `struct record`. */
    atomic_store_explicit(&r->state, state_of(LEASED, 0, q->slot), memory_order_relaxed);
    taken++;
    version = prepare_move(&h->gets, 1, cursor + r->bytes, count + 1, q->slot | taken * MAX_SLOTS);
    POINT(32);
    atomic_store_explicit(&h->get.number, TAKING | (uint32_t)version, memory_order_release);
    POINT(33);
    set(&h->gets.version, version);
    POINT(34);
    set(&h->slots[q->slot].taken, taken);
    POINT(35);
    atomic_store_explicit(&h->get.number, 0, memory_order_release);
    return 1;
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
    if (likely(limit == 1 && !reader && !get(&h->num_returned) && take_one(q, items))) {
        *number = 1;
        unlock(&h->get);
        if (get(&h->maxsize)) wake(q, Q_SPACE, 1);
        return Q_OK;
    }
    while (unlikely(get(&h->num_returned)) && *number < limit && status == Q_OK) {
        status = take_returned(q, reader, 0, &items[*number]);
        if (status == Q_OK) ++*number;
    }
    if (unlikely(status == Q_EMPTY)) status = Q_OK; /* those that are left are not due */
    if (status == Q_OK && *number < limit) {
        status = take_fresh(q, reader, items, limit, number);
        if (*number && status != Q_CORRUPT) status = Q_OK;
    }
    int shut = status == Q_EMPTY && get(&h->shut) && !get(&h->num_delayed);
    if (unlikely(status == Q_EMPTY)) reap(q);
    unlock(&h->get);
    if (*number && get(&h->maxsize)) wake(q, Q_SPACE, *number);
    return shut ? Q_SHUT : status;
}

q_status q_peek(q_queue *q, void *into, uint64_t capacity, uint64_t *size, uint32_t *kind,
                int patient) {
    struct header *h = q->h;
    q_status status = take_lock(q, &h->get, patient);
    if (status != Q_OK) return status;
    uint64_t address, seen = num_records(&h->gets), records = num_records(&h->puts);
    struct record *r = NULL;
    if (get(&h->num_returned)) r = first_returned(q, 0, &address);
    if (!r) {
        address = cursor_of(h);
        while (seen != records && (r = follow(q, &address, NULL)) &&
               what_of(get(&r->state)) == WITHDRAWN) {
            address += r->bytes;
            seen++;
            r = NULL;
        }
    }
    if (!r) {
        status = get(&h->shut) && !get(&h->num_delayed) ? Q_SHUT : Q_EMPTY;
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
    if (status == Q_OK) wake(q, Q_ITEMS, 1); /* a put wakes one caller, which may have been this one */
    return status;
}

size_t q_done_many(q_queue *q, const q_item *items, size_t number) {
    int is_own = q->generation == fork_generation(); /* else it is the parent's */
    size_t i = 0;
    for (; i < number && items[i].kind == Q_INLINE; i++) {
        if (unlikely(!is_own || items[i].owner != q->slot)) continue; /* left: the chunk may be free */
        struct record *r = (struct record *)items[i].data - 1;
        POINT(31);
        /* Pairs with the load in `reap`: our reads of the record came before. */
        set(&r->state, DONE);
    }
    return i;
}

q_status q_done(q_queue *q, const q_item *item, int patient) {
    if (likely(q_done_many(q, item, 1))) return Q_OK;
    if (unlikely(q->generation != fork_generation())) return Q_OK;
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
