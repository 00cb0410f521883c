/* What the native tests share: the core's own header, so that they see its structs, checks, an audit
 * that walks the whole file and finds each block that is lost, used twice or counted wrongly. */
#ifndef QMILL_TESTS_NATIVE_H
#define QMILL_TESTS_NATIVE_H

#include "../../src/qmill/queues/shared/core/core.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HELPER __attribute__((unused)) static

static char context[256]; /* what is being tested, for the message of a check that fails */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) fail(__FILE__, __LINE__, #condition);                                    \
    } while (0)
#define SAME(a, b)                                                                                 \
    do {                                                                                           \
        unsigned long long same_a = (unsigned long long)(a), same_b = (unsigned long long)(b);     \
        if (same_a != same_b) {                                                                    \
            fprintf(stderr, "%llu is not %llu: ", same_a, same_b);                                 \
            fail(__FILE__, __LINE__, #a " == " #b);                                                \
        }                                                                                          \
    } while (0)

static void fail(const char *file, int line, const char *text) {
    fprintf(stderr, "%s:%d: %s [%s]\n", file, line, text, context);
    fflush(NULL);
    _exit(1);
}

/* A call that finds its lock held tries again, for a second. */
#define PATIENTLY(status, call)                                                                    \
    do {                                                                                           \
        int tries = 0;                                                                             \
        do status = (call);                                                                        \
        while (status == Q_BUSY && ++tries < 10);                                                  \
    } while (0)
#define MUST(call)                                                                                 \
    do {                                                                                           \
        q_status must;                                                                             \
        PATIENTLY(must, call);                                                                     \
        SAME(must, Q_OK);                                                                          \
    } while (0)

static const uint8_t UUID[16] = "a test's uuid..";

HELPER int new_file(void) {
    int fd = memfd_create("qmill-test", MFD_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

HELPER q_queue *new_ring(uint64_t maxsize) {
    q_queue *q = NULL;
    MUST(q_create(new_file(), maxsize, UUID, &q));
    return q;
}

HELPER uint64_t file_blocks(const q_queue *q) {
    struct stat s;
    CHECK(!fstat(q_fd(q), &s));
    return (uint64_t)s.st_blocks * 512;
}

/* -- messages that can be told apart ------------------------------------------------------------ */

typedef struct {
    uint32_t producer, number;
    uint64_t size;
} mark;

HELPER void fill(void *into, uint64_t size, uint32_t producer, uint32_t number) {
    mark m = {producer, number, size};
    CHECK(size >= sizeof m);
    memset(into, (int)(number & 0xff), size);
    memcpy(into, &m, sizeof m);
}

HELPER mark marked(const void *data, uint64_t size) {
    mark m;
    CHECK(size >= sizeof m);
    memcpy(&m, data, sizeof m);
    SAME(m.size, size);
    const uint8_t *bytes = data;
    for (uint64_t i = sizeof m; i < size; i++) CHECK(bytes[i] == (m.number & 0xff));
    return m;
}

HELPER q_status try_put(q_queue *q, uint64_t size, uint32_t producer, uint32_t number) {
    if (size <= q_inline_max()) {
        uint8_t data[16 << 10];
        fill(data, size, producer, number);
        return q_put(q, data, size, 1);
    }
    q_message message = {NULL, size, 0, NULL, 0};
    void *data;
    q_status status;
    PATIENTLY(status, q_block_new(q, size, &message.block, &data, 1));
    if (status != Q_OK) return status;
    fill(data, size, producer, number);
    size_t done = 0;
    status = q_put_many(q, &message, 1, &done, 1);
    if (status != Q_OK) CHECK(q_block_free(q, message.block, 1) == Q_OK);
    return status;
}

HELPER void put(q_queue *q, uint64_t size, uint32_t producer, uint32_t number) {
    MUST(try_put(q, size, producer, number));
}

/* Take one as this process, read it and finish it. */
HELPER q_status try_take(q_queue *q, mark *m) {
    q_item item;
    size_t number;
    q_status status;
    PATIENTLY(status, q_take(q, 0, &item, 1, &number, 1));
    if (status != Q_OK) return status;
    SAME(number, 1);
    if (item.kind == Q_END) {
        *m = (mark){UINT32_MAX, 0, 0};
        return Q_OK;
    }
    *m = marked(item.data, item.size);
    MUST(q_done(q, &item, 1));
    if (item.block) MUST(q_block_free(q, item.block, 1));
    MUST(q_task_done(q, 1));
    return Q_OK;
}

HELPER q_counts counts_of(q_queue *q) {
    q_counts counts;
    MUST(q_statistics(q, &counts, 1));
    return counts;
}

/* -- the audit ---------------------------------------------------------------------------------- */

#define MANY 100000

static int is_among(const uint64_t *these, size_t number, uint64_t one) {
    for (size_t i = 0; i < number; i++)
        if (these[i] == one) return 1;
    return 0;
}

/* What has memory: not more than the header, what blocks have reserved, and their heads. */
static void audit_memory(q_queue *q) {
    struct header *h = q->h;
    uint64_t most = h->header_bytes + PAGE; /* one of a segment that nobody has made known yet */
    for (uint64_t i = 1; i < get(&h->num_segments); i++) {
        for (uint64_t offset = 0; offset < get(&h->segments[i].size);) {
            struct block *b = block_at(q, i << SEGMENT_SHIFT | offset);
            uint64_t reserved = get(&b->reserved);
            unsigned what = get(&b->state) & 0xff;
            most += what == BLOCK_FREE || !reserved ? PAGE : reserved;
            offset += class_bytes(class_of(b));
        }
    }
    CHECK(file_blocks(q) <= most);
}

/* While nobody uses the queue: each block is free, a chunk in use, a definition, a message that is
 * not finished, or one of so many that processes own. Returns the number of chunks. */
HELPER uint64_t audit(q_queue *q, uint64_t owned) {
    static uint64_t chunks[MANY], queued[MANY], definitions[MANY];
    size_t num_chunks = 0, num_queued = 0, num_frees = 0, num_definitions = 0;
    struct header *h = q->h;
    uint64_t address = get(&h->oldest), chunk = get(&h->oldest_chunk), found_leased = 0;
    uint64_t found_returned = 0, found_set_aside = 0, past_cursor = 0, waits = 0, before_cursor = 0;
    SAME(h->put.number, 0);
    SAME(h->get.number, 0);
    SAME(h->allocate.number, 0);
    int is_first = chunk == here(q, &h->first_chunk);
    chunks[num_chunks++] = chunk;
    while (address != get(&position(&h->puts)->place)) {
        if (address == cursor_of(h)) {
            past_cursor = 1;
            before_cursor = num_chunks;
        }
        struct record *r = record_at(q, address);
        CHECK(r);
        CHECK(address >= chunk + sizeof(struct block) && address < chunk + CHUNK_BYTES);
        if (kind_of(r) == Q_LINK) {
            address = get(&r->state);
            chunk = address - sizeof(struct block);
            CHECK(num_chunks < MANY);
            chunks[num_chunks++] = chunk;
            continue;
        }
        unsigned what = what_of(get(&r->state));
        int finished = !past_cursor && (what == DONE || what == SET_ASIDE);
        if (past_cursor) waits++;
        if (!past_cursor && what == LEASED) found_leased++;
        if (!past_cursor && what == RETURNED) found_returned++;
        if (!past_cursor && what == SET_ASIDE) found_set_aside++;
        if (kind_of(r) == Q_BLOCK && (!finished || what == SET_ASIDE)) {
            CHECK(num_queued < MANY);
            queued[num_queued++] = ((struct large *)(r + 1))->block;
        }
        address += r->bytes;
    }
    if (address == cursor_of(h)) before_cursor = num_chunks;
    CHECK(before_cursor);
    if (num_chunks > 1 || !is_first) SAME(chunk, get(&h->tail_chunk));
    SAME(get(&h->num_chunks), before_cursor);
    SAME(waits, num_records(&h->puts) - num_records(&h->gets));
    SAME(found_returned, get(&h->num_returned));
    SAME(found_set_aside, get(&h->num_set_aside));
    CHECK(found_leased >= get(&h->num_leased));
    uint64_t kept_bytes = 0, num_kept = 0;
    for (unsigned class = 0; class < NUM_CLASSES; class++) {
        for (uint64_t kept = get(&h->kept_block[class]); kept; num_kept++) {
            struct block *b = block_at(q, kept);
            CHECK(b && class_of(b) == class && get(&b->state) == BLOCK_KEPT);
            CHECK(get(&b->reserved) && get(&b->reserved) <= class_bytes(class));
            CHECK(num_kept < MANY);
            kept_bytes += get(&b->reserved);
            kept = get(&b->next);
        }
        for (uint64_t free = get(&h->free_block[class]), previous = 0; free; num_frees++) {
            struct block *b = block_at(q, free);
            CHECK(b && class_of(b) == class && get(&b->state) == BLOCK_FREE);
            SAME(get(&b->previous), previous);
            SAME(get(&b->loose), 0);
            CHECK(num_frees < MANY);
            previous = free;
            free = get(&b->next);
        }
    }
    SAME(kept_bytes, get(&h->kept_bytes));
    uint64_t most = get(&h->max_kept_bytes);
    CHECK(kept_bytes <= (most == Q_CHOSEN ? KEPT_BYTES_MAX : most));
    for (uint64_t block = get(&h->definitions); block;) {
        CHECK(num_definitions < MANY);
        definitions[num_definitions++] = block;
        block = ((struct definition *)at(q, block + sizeof(struct block), 24))->next;
    }
    uint64_t walked[BLOCK_KEPT + 1] = {0};
    for (uint64_t i = 1; i < get(&h->num_segments); i++) {
        uint64_t size = get(&h->segments[i].size), offset = 0;
        while (offset < size) {
            uint64_t block = i << SEGMENT_SHIFT | offset;
            struct block *b = block_at(q, block);
            CHECK(b);
            unsigned what = get(&b->state) & 0xff;
            CHECK(what >= BLOCK_FREE && what <= BLOCK_KEPT);
            walked[what]++;
            if (what == BLOCK_CHUNK) CHECK(is_among(chunks, num_chunks, block));
            if (what == BLOCK_QUEUED) CHECK(is_among(queued, num_queued, block));
            if (what == BLOCK_DEFINITION) CHECK(is_among(definitions, num_definitions, block));
            offset += class_bytes(class_of(b));
        }
        SAME(offset, size);
    }
    SAME(walked[BLOCK_CHUNK], num_chunks - (uint64_t)is_first);
    SAME(walked[BLOCK_FREE], num_frees);
    SAME(walked[BLOCK_KEPT], num_kept);
    SAME(walked[BLOCK_QUEUED], num_queued);
    SAME(walked[BLOCK_DEFINITION], num_definitions);
    SAME(walked[BLOCK_OWNED], owned);
    audit_memory(q);
    return num_chunks;
}

/* -- processes ---------------------------------------------------------------------------------- */

/* How a child ended: 0, its exit status, or 256 + its signal. */
HELPER int end_of(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0) CHECK(errno == EINTR);
    return WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
}

#define KILLED (256 + SIGKILL)

#endif
