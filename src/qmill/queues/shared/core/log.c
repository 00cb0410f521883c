/* The chunks of records: those that are finished are unlinked and freed. */
#include "core.h"

/* Under the get lock: commit a change after which a chunk is not linked, and free it. Not if the
 * allocator is busy: consumers do not wait for it, and another time will do. */
static int unlink_chunk(q_queue *q, struct change *c, uint64_t chunk, struct block *b) {
    struct header *h = q->h;
    PLAN(c, h->num_chunks, get(&h->num_chunks) - 1);
    if (b == &h->first_chunk) {
        commit(c);
        return 1;
    }
    if (take_lock(q, &h->allocate, 0) != Q_OK) return 0;
    plan(c, chunk + offsetof(struct block, state), &b->state,
         BLOCK_OWNED | (uint64_t)q->slot << 32);
    commit(c);
    POINT(43);
    release_locked(q, chunk, b);
    unlock(&h->allocate);
    return 1;
}

/* Under the get lock: free chunks whose records are all finished, from the oldest. */
void reap(q_queue *q) {
    struct header *h = q->h;
    uint64_t address = get(&h->oldest), cursor = cursor_of(h), chunk = get(&h->oldest_chunk);
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
void compact(q_queue *q) {
    struct header *h = q->h;
    uint64_t cursor = cursor_of(h), address = get(&h->oldest), previous_link = 0;
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
