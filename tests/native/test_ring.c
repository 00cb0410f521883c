/* What a queue does while nobody is killed in the middle of it, and what once went wrong.
 * `test_ring NAME...` runs some of the tests, `test_ring quick` all of them with less of each. */
#include "native.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static int quick;

/* -- put, take, done ---------------------------------------------------------------------------- */

static void sizes(void) {
    q_queue *q = new_ring(0);
    static const uint64_t SIZES[] = {16, 17, 40, 1000, 16383, 16384, 16385, 65536, 1 << 20, 9 << 20};
    enum { NUMBER = sizeof SIZES / sizeof *SIZES };
    for (uint32_t i = 0; i < NUMBER; i++) put(q, SIZES[i], 0, i);
    SAME(q_size_hint(q), NUMBER);
    CHECK(q_watch(q, Q_ITEMS));
    mark m;
    for (uint32_t i = 0; i < NUMBER; i++) {
        MUST(try_take(q, &m));
        SAME(m.number, i);
        SAME(m.size, SIZES[i]);
    }
    SAME(try_take(q, &m), Q_EMPTY);
    CHECK(!q_watch(q, Q_ITEMS));
    SAME(audit(q, 0), 1);
    q_message too_large = {NULL, UINT64_C(1) << 60, 0, NULL, 0};
    void *into;
    SAME(q_block_new(q, too_large.size, &too_large.block, &into, 1), Q_NO_MEMORY);
    MUST(q_put(q, NULL, 0, 1)); /* an empty one */
    q_item item;
    size_t number;
    MUST(q_take(q, 0, &item, 1, &number, 1));
    SAME(item.size, 0);
    q_detach(q);
}

static void batches(void) {
    q_queue *q = new_ring(0);
    static uint8_t data[200][1000];
    q_message messages[200];
    q_item items[64];
    size_t done = 0, number;
    for (uint32_t i = 0; i < 200; i++) {
        fill(data[i], 1000, 0, i);
        messages[i] = (q_message){data[i], 1000, 0, NULL, 0};
    }
    for (int round = 0; round < 50; round++) {
        done = 0;
        MUST(q_put_many(q, messages, 200, &done, 1));
        SAME(done, 200);
        for (uint32_t next = 0; next < 200;) {
            MUST(q_take(q, 0, items, 64, &number, 1));
            for (size_t i = 0; i < number; i++) {
                SAME(marked(items[i].data, items[i].size).number, next++);
                MUST(q_done(q, &items[i], 1));
                MUST(q_task_done(q, 1));
            }
        }
    }
    mark m;
    SAME(try_take(q, &m), Q_EMPTY);
    SAME(counts_of(q).unfinished, 0);
    CHECK(audit(q, 0) <= 2);
    q_detach(q);
}

static void bounded(void) {
    q_queue *q = new_ring(3);
    SAME(q_maxsize(q), 3);
    uint8_t data[5][40];
    q_message messages[5];
    for (uint32_t i = 0; i < 5; i++) {
        fill(data[i], 40, 0, i);
        messages[i] = (q_message){data[i], 40, 0, NULL, 0};
    }
    size_t done = 0;
    SAME(q_put_many(q, messages, 5, &done, 1), Q_FULL);
    SAME(done, 3);
    CHECK(q_full(q));
    CHECK(!q_watch(q, Q_SPACE));
    MUST(q_end(q, "x", 1, 1)); /* has room always */
    mark m;
    MUST(try_take(q, &m));
    CHECK(!q_full(q));
    CHECK(q_watch(q, Q_SPACE));
    SAME(q_put_many(q, messages, 5, &done, 1), Q_FULL);
    SAME(done, 4);
    SAME(counts_of(q).size, 4);
    q_item item;
    size_t number;
    MUST(q_take(q, 0, &item, 1, &number, 1));
    CHECK(!q_full(q));
    MUST(q_give_back(q, &item, 1));
    CHECK(q_full(q)); /* what came back waits again */
    for (uint32_t i = 1; i < 3; i++) {
        MUST(try_take(q, &m));
        SAME(m.number, i);
    }
    q_detach(q);
}

static void another_limit(void) {
    q_queue *q = new_ring(2);
    for (uint32_t i = 0; i < 2; i++) put(q, 40, 0, i);
    SAME(try_put(q, 40, 0, 2), Q_FULL);
    uint32_t sequence = q_announce(q, Q_SPACE);
    MUST(q_set_maxsize(q, 3, 1));
    SAME(q_maxsize(q), 3);
    SAME(counts_of(q).maxsize, 3);
    CHECK(q_announce(q, Q_SPACE) != sequence); /* who has announced itself was woken */
    CHECK(q_watch(q, Q_SPACE));
    put(q, 40, 0, 2);
    MUST(q_set_maxsize(q, 1, 1));
    mark m;
    for (uint32_t i = 0; i < 3; i++) {
        SAME(try_put(q, 40, 0, 9), Q_FULL);
        CHECK(q_full(q));
        MUST(try_take(q, &m));
        SAME(m.number, i);
    }
    CHECK(!q_full(q));
    MUST(q_set_maxsize(q, 0, 1));
    for (uint32_t i = 0; i < 100; i++) put(q, 40, 0, i);
    MUST(q_set_maxsize(q, 100, 1)); /* who takes tells producers of room, from now on */
    sequence = q_announce(q, Q_SPACE);
    MUST(try_take(q, &m));
    CHECK(q_announce(q, Q_SPACE) != sequence);
    q_detach(q);
}

static void leases(void) {
    q_queue *q = new_ring(0);
    uint32_t a, b;
    q_item items[4], one;
    size_t number;
    MUST(q_reader_new(q, &a, 1));
    MUST(q_reader_new(q, &b, 1));
    for (uint32_t i = 0; i < 4; i++) put(q, i == 2 ? 40000 : 40, 0, i);
    MUST(q_take(q, a, items, 4, &number, 1));
    SAME(number, 4);
    SAME(counts_of(q).leased, 4);
    SAME(q_take(q, b, &one, 1, &number, 1), Q_EMPTY);
    MUST(q_lease_done(q, a, items[0].record, 1));
    MUST(q_lease_done(q, a, items[0].record, 1)); /* twice is once */
    MUST(q_lease_done(q, b, items[1].record, 1)); /* not b's */
    SAME(counts_of(q).leased, 3);
    MUST(q_lease_give_back(q, a, items[2].record, 1));
    MUST(q_take(q, b, &one, 1, &number, 1)); /* the oldest that came back */
    SAME(marked(one.data, one.size).number, 2);
    MUST(q_lease_done(q, b, one.record, 1));
    q_counts c = counts_of(q);
    SAME(c.leased, 2);
    SAME(c.unfinished, 2);
    SAME(c.taken, 4);
    MUST(q_lease_done(q, a, items[1].record, 1));
    MUST(q_reader_close(q, a, 1)); /* gives back what it holds, as if it had not been taken */
    MUST(q_reader_close(q, b, 1));
    c = counts_of(q);
    SAME(c.unfinished, 1);
    SAME(c.taken, 3);
    SAME(c.redelivered, 0);
    mark m;
    MUST(try_take(q, &m));
    SAME(m.number, 3);
    SAME(q_task_done(q, 1), Q_TOO_OFTEN);
    audit(q, 0);
    q_detach(q);
}

static void wait_ms(int milliseconds) { poll(NULL, 0, milliseconds); }

static void releases(void) {
    q_queue *q = new_ring(0);
    uint32_t reader;
    q_item item, other;
    size_t number;
    uint64_t size;
    uint32_t kind;
    mark m;
    MUST(q_reader_new(q, &reader, 1));
    put(q, 40000, 0, 0);
    put(q, 40, 0, 1);
    MUST(q_take(q, reader, &item, 1, &number, 1));
    MUST(q_release(q, reader, item.record, 0, 1));
    SAME(q_release(q, reader, item.record, 0, 1), Q_EMPTY); /* it is not held any more */
    q_counts c = counts_of(q);
    SAME(c.redelivered, 1);
    SAME(c.taken, 1);
    SAME(c.size, 2);
    SAME(c.leased, 0);
    MUST(q_take(q, reader, &item, 1, &number, 1));
    SAME(marked(item.data, item.size).number, 0);
    /* Until it is due nobody gets it: not before an END, and it is no reason to stop. */
    MUST(q_end(q, "a", 1, 1));
    MUST(q_shutdown(q, 0, 1));
    int64_t before = now_ns();
    MUST(q_release(q, reader, item.record, 200, 1));
    SAME(counts_of(q).size, 3);
    MUST(q_take(q, reader, &other, 1, &number, 1));
    SAME(marked(other.data, other.size).number, 1);
    MUST(q_lease_done(q, reader, other.record, 1));
    q_status taken, looked = q_peek(q, NULL, 0, &size, &kind, 1);
    while ((taken = q_take(q, 0, &other, 1, &number, 1)) != Q_OK) {
        SAME(taken, Q_NOT_YET);
        SAME(looked, Q_NOT_YET);
        q_sleep(q, Q_ITEMS, q_announce(q, Q_ITEMS), 100000000);
    }
    CHECK(now_ns() - before >= 200000000);
    SAME(marked(other.data, other.size).number, 0);
    MUST(q_done(q, &other, 1));
    MUST(q_block_free(q, other.block, 1));
    MUST(try_take(q, &m));
    SAME(m.producer, UINT32_MAX);
    SAME(try_take(q, &m), Q_SHUT);
    MUST(q_reader_close(q, reader, 1));
    audit(q, 0);
    q_detach(q);
}

static void delays(void) {
    q_queue *q = new_ring(0), *other;
    uint32_t reader;
    q_item items[3];
    size_t number;
    mark m;
    MUST(q_reader_new(q, &reader, 1));
    for (uint32_t i = 0; i < 3; i++) put(q, 40, 0, i);
    MUST(q_take(q, reader, items, 3, &number, 1));
    MUST(q_release(q, reader, items[0].record, 3600000, 1));
    MUST(q_release(q, reader, items[1].record, 1, 1));
    wait_ms(3);
    MUST(try_take(q, &m)); /* the one that is due, and not the first */
    SAME(m.number, 1);
    SAME(try_take(q, &m), Q_EMPTY);
    MUST(q_release(q, reader, items[2].record, 3600000, 1));
    SAME(try_take(q, &m), Q_EMPTY);
    SAME(counts_of(q).unfinished, 2);
    MUST(q_leave(q, 1, 1));
    MUST(q_adopt(dup(q_fd(q)), &other)); /* the time of a kept file means nothing to the next */
    for (uint32_t i = 0; i < 3; i += 2) {
        MUST(try_take(other, &m));
        SAME(m.number, i);
    }
    q_detach(other);
    q_detach(q);
    q = new_ring(0);
    put(q, 40, 0, 0);
    MUST(q_reader_new(q, &reader, 1));
    MUST(q_take(q, reader, items, 1, &number, 1));
    MUST(q_release(q, reader, items[0].record, 3600000, 1));
    MUST(q_shutdown(q, 1, 1)); /* throws it away, too */
    SAME(counts_of(q).unfinished, 0);
    SAME(try_take(q, &m), Q_SHUT);
    audit(q, 0);
    q_detach(q);
}

static void who_leaves_gives_back(void) {
    q_queue *q = new_ring(0);
    uint32_t reader;
    q_item item;
    size_t number;
    put(q, 40000, 0, 0);
    for (int i = 0; i < 5; i++) { /* often, and it counts as no death */
        MUST(q_reader_new(q, &reader, 1));
        MUST(q_take(q, reader, &item, 1, &number, 1));
        MUST(q_leave(q, 1, 1));
    }
    q_counts c = counts_of(q);
    SAME(c.redelivered, 5);
    SAME(c.unfinished, 1);
    SAME(c.poisoned, 0);
    mark m;
    MUST(try_take(q, &m));
    audit(q, 0);
    q_detach(q);
}

static void ends(void) {
    q_queue *q = new_ring(0);
    uint32_t reader;
    uint64_t number, size;
    size_t taken;
    uint32_t kind;
    q_item item;
    mark m;
    MUST(q_end(q, "a", 1, 1));
    MUST(q_end(q, "b", 1, 1));
    put(q, 40, 0, 0);
    MUST(q_withdraw(q, "a", 1, &number, 1));
    SAME(number, 1);
    MUST(q_withdraw(q, "a", 1, &number, 1));
    SAME(number, 0);
    MUST(q_peek(q, NULL, 0, &size, &kind, 1));
    SAME(kind, Q_END);
    MUST(try_take(q, &m));
    SAME(m.producer, UINT32_MAX);
    MUST(try_take(q, &m));
    SAME(m.number, 0);
    SAME(try_take(q, &m), Q_EMPTY);
    SAME(counts_of(q).size, 0);
    /* An END waits for what another process leases, unless that waits too. */
    put(q, 40, 0, 1);
    int ready[2], go[2];
    CHECK(!pipe(ready) && !pipe(go));
    pid_t child = fork();
    if (!child) {
        char c = 0;
        MUST(q_reader_new(q, &reader, 1));
        MUST(q_take(q, reader, &item, 1, &taken, 1));
        CHECK(write(ready[1], &reader, sizeof reader) == sizeof reader);
        CHECK(read(go[0], &c, 1) == 1);
        MUST(q_reader_waits(q, reader, 1));
        CHECK(write(ready[1], &c, 1) == 1);
        CHECK(read(go[0], &c, 1) == 1);
        MUST(q_leave(q, 1, 1));
        _exit(0);
    }
    CHECK(read(ready[0], &reader, sizeof reader) == sizeof reader);
    pid_t ender = fork(); /* its own ENDs are ready for a process at once */
    if (!ender) {
        MUST(q_end(q, "c", 1, 1));
        _exit(0);
    }
    SAME(end_of(ender), 0);
    SAME(try_take(q, &m), Q_NOT_YET);
    SAME(q_peek(q, NULL, 0, &size, &kind, 1), Q_NOT_YET);
    MUST(q_reader_waits(q, reader, 1)); /* not ours: it changes nothing */
    SAME(try_take(q, &m), Q_NOT_YET);
    char c = 0;
    CHECK(write(go[1], &c, 1) == 1 && read(ready[0], &c, 1) == 1);
    MUST(try_take(q, &m));
    SAME(m.producer, UINT32_MAX);
    CHECK(write(go[1], &c, 1) == 1);
    SAME(end_of(child), 0);
    for (int i = 0; i < 2; i++) close(ready[i]), close(go[i]);
    MUST(q_sweep(q, 0, 1));
    MUST(try_take(q, &m)); /* what it held when it left */
    SAME(m.number, 1);
    SAME(counts_of(q).unfinished, 0);
    audit(q, 0);
    q_detach(q);
}

static void shutdowns(void) {
    for (int immediate = 0; immediate < 2; immediate++) {
        q_queue *q = new_ring(0);
        uint64_t number;
        for (uint32_t i = 0; i < 30; i++) put(q, i % 7 ? 5000 : 50000, 0, i);
        MUST(q_end(q, "x", 1, 1));
        q_item item;
        size_t taken;
        MUST(q_take(q, 0, &item, 1, &taken, 1));
        MUST(q_give_back(q, &item, 1));
        CHECK(!q_is_shut(q));
        MUST(q_shutdown(q, immediate, 1));
        CHECK(q_is_shut(q));
        uint8_t data[40] = {0};
        SAME(q_put(q, data, 40, 1), Q_SHUT);
        mark m;
        if (!immediate) {
            for (uint32_t i = 0; i < 31; i++) {
                MUST(try_take(q, &m));
                if (i < 30) SAME(m.number, i);
            }
        }
        SAME(try_take(q, &m), Q_SHUT);
        MUST(q_withdraw(q, "x", 1, &number, 1));
        SAME(number, 0);
        q_counts c = counts_of(q);
        SAME(c.unfinished, 0);
        SAME(c.size, 0);
        SAME(c.lost, 0);
        CHECK(audit(q, 0) <= 2);
        q_detach(q);
    }
}

static void peeks(void) {
    q_queue *q = new_ring(0);
    uint8_t into[100];
    uint64_t size;
    uint32_t kind;
    SAME(q_peek(q, into, sizeof into, &size, &kind, 1), Q_EMPTY);
    put(q, 40, 0, 7);
    put(q, 50000, 0, 8);
    MUST(q_peek(q, into, sizeof into, &size, &kind, 1));
    SAME(marked(into, size).number, 7);
    mark m;
    MUST(try_take(q, &m));
    MUST(q_peek(q, into, sizeof into, &size, &kind, 1));
    SAME(size, 50000); /* and nothing is copied */
    SAME(kind, Q_BLOCK);
    q_item item;
    size_t number;
    MUST(q_take(q, 0, &item, 1, &number, 1));
    put(q, 40, 0, 9);
    MUST(q_give_back(q, &item, 1));
    MUST(q_peek(q, into, sizeof into, &size, &kind, 1));
    SAME(size, 50000); /* what came back is first */
    q_detach(q);
}

static void definitions(void) {
    q_queue *q = new_ring(0), *other;
    MUST(q_attach(dup(q_fd(q)), UUID, &other));
    const void *data;
    uint64_t size;
    char key[24], value[60];
    SAME(q_fetch(q, "k", 1, &data, &size), Q_EMPTY);
    for (int i = 0; i < 50; i++) {
        snprintf(key, sizeof key, "key %d", i);
        snprintf(value, sizeof value, "value %d", i);
        MUST(q_define(i % 2 ? q : other, key, (uint32_t)strlen(key), value, strlen(value), 1));
        MUST(q_define(q, key, (uint32_t)strlen(key), "another", 7, 1)); /* the first counts */
    }
    for (int i = 0; i < 50; i++) {
        snprintf(key, sizeof key, "key %d", i);
        snprintf(value, sizeof value, "value %d", i);
        MUST(q_fetch(i % 3 ? q : other, key, (uint32_t)strlen(key), &data, &size));
        CHECK(size == strlen(value) && !memcmp(data, value, size));
    }
    audit(q, 0);
    q_detach(other);
    q_detach(q);
}

static void poison(void) {
    q_queue *q = new_ring(0);
    put(q, 50000, 0, 0);
    put(q, 40, 0, 1);
    q_item item;
    size_t number;
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (!child) {
            uint32_t reader;
            MUST(q_reader_new(q, &reader, 1));
            MUST(q_take(q, reader, &item, 1, &number, 1));
            SAME(marked(item.data, item.size).number, 0);
            raise(SIGKILL);
        }
        SAME(end_of(child), KILLED);
        MUST(q_sweep(q, 0, 1));
    }
    q_counts c = counts_of(q);
    SAME(c.poisoned, 1);
    SAME(c.redelivered, 2);
    SAME(c.unfinished, 1);
    SAME(c.lost, 0);
    audit(q, 0);
    mark m;
    MUST(try_take(q, &m));
    SAME(m.number, 1);
    SAME(q_newly_aside(q), 1);
    SAME(q_newly_aside(q), 0);
    static uint8_t into[50000];
    q_aside found = {into, 10, 0, 0, 0};
    MUST(q_look_aside(q, 0, Q_RAISED, &found, 1)); /* too small: it is not marked */
    SAME(found.size, 50000);
    found.capacity = found.size;
    for (q_mark mark = Q_RAISED; mark <= Q_LOGGED; mark = (q_mark)(mark + 1)) {
        MUST(q_look_aside(q, 0, mark, &found, 1));
        SAME(q_look_aside(q, 0, mark, &found, 1), Q_EMPTY);
        SAME(found.deaths, 3);
    }
    for (int i = 0; i < 2; i++) MUST(q_look_aside(q, 0, Q_ANY, &found, 1));
    SAME(q_look_aside(q, 1, Q_ANY, &found, 1), Q_EMPTY);
    SAME(marked(into, found.size).number, 0);
    SAME(q_requeue(q, found.record + 8, 1), Q_EMPTY);
    MUST(q_requeue(q, found.record, 1));
    SAME(q_requeue(q, found.record, 1), Q_EMPTY);
    SAME(counts_of(q).unfinished, 1);
    uint32_t reader;
    MUST(q_reader_new(q, &reader, 1));
    MUST(q_take(q, reader, &item, 1, &number, 1));
    SAME(marked(item.data, item.size).number, 0);
    SAME(deaths_of(get(&((struct record *)at(q, item.record, 16))->state)), 0);
    MUST(q_lease_done(q, reader, item.record, 1));
    MUST(q_reader_close(q, reader, 1));
    audit(q, 0);
    q_detach(q);
}

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && !fclose(file));
}

/* -- memory ------------------------------------------------------------------------------------- */

static void growth(void) {
    q_queue *q = new_ring(0);
    uint32_t number = (uint32_t)((KEPT_BYTES + (UINT64_C(16) << 20)) / 5000);
    uint64_t before = file_blocks(q), given;
    for (uint32_t i = 0; i < number; i++) put(q, 5000, 0, i);
    CHECK(get(&q->h->num_segments) > 5);
    CHECK(file_blocks(q) > before + number * UINT64_C(5000));
    mark m;
    for (uint32_t i = 0; i < number; i++) {
        MUST(try_take(q, &m));
        SAME(m.number, i);
    }
    SAME(try_take(q, &m), Q_EMPTY);
    SAME(get(&q->h->kept_bytes), KEPT_BYTES);
    audit(q, 0);
    CHECK(file_blocks(q) <= before + KEPT_BYTES + 2 * CHUNK_BYTES + KEPT_BYTES / 8);
    MUST(q_trim(q, &given, 1));
    SAME(given, KEPT_BYTES);
    audit(q, 0);
    CHECK(file_blocks(q) <= before + 4 * CHUNK_BYTES);
    for (uint32_t i = 0; i < number; i++) put(q, 5000, 0, i); /* what was given back is had again */
    for (uint32_t i = 0; i < number; i++) MUST(try_take(q, &m));
    audit(q, 0);
    q_detach(q);
}

static void a_queue_with_a_message_is_small(void) {
    q_queue *q = new_ring(0);
    CHECK(file_blocks(q) <= 16 << 10);
    put(q, 40, 0, 0);
    CHECK(file_blocks(q) < 100 << 10);
    put(q, 20000, 0, 1);
    CHECK(file_blocks(q) < 130 << 10);
    audit(q, 0);
    q_detach(q);
}

/* Messages of thousands of sizes, some of which are held for long, from two producers in turn. */
static void sizes_that_rise_and_fall(void) {
    q_queue *q = new_ring(0);
    uint32_t number = quick ? 300 : 3000;
    uint64_t held[64] = {0}, given, before = file_blocks(q);
    for (uint32_t i = 0; i < number; i++) {
        uint32_t up = i < number / 2 ? i : number - i;
        uint64_t size = 20000 + up * UINT64_C(6000000) / number;
        for (int n = 0; n < 4; n++) {
            void *data;
            uint64_t *place = &held[(i * 4 + (uint32_t)n * 7) % 64];
            if (*place) MUST(q_block_free(q, *place, 1));
            MUST(q_block_new(q, size + (uint64_t)n * 100000, place, &data, 1));
            memset(data, n, 64);
        }
        CHECK(get(&q->h->kept_bytes) <= KEPT_BYTES_MAX);
    }
    CHECK(get(&q->h->num_segments) < 64);
    for (int i = 0; i < 64; i++)
        if (held[i]) MUST(q_block_free(q, held[i], 1));
    audit(q, 0);
    CHECK(file_blocks(q) < KEPT_BYTES_MAX + (1 << 20));
    MUST(q_trim(q, &given, 1));
    audit(q, 0);
    /* Each segment is one block again. */
    for (uint64_t i = 1; i < get(&q->h->num_segments); i++) {
        struct block *b = block_at(q, i << SEGMENT_SHIFT);
        SAME(get(&b->state), BLOCK_FREE);
        SAME(class_bytes(class_of(b)), get(&q->h->segments[i].size));
    }
    CHECK(file_blocks(q) <= before + get(&q->h->num_segments) * PAGE);
    q_detach(q);
}

static void what_is_kept_is_bounded(void) {
    q_queue *q = new_ring(0);
    uint64_t blocks[8], given;
    void *data;
    SAME(q_max_kept(q), Q_CHOSEN);
    for (uint64_t size = KEPT_BYTES / 8; size < 3 * KEPT_BYTES_MAX; size *= 2) {
        for (int i = 0; i < 8; i++) MUST(q_block_new(q, size, &blocks[i], &data, 1));
        for (int i = 0; i < 8; i++) MUST(q_block_free(q, blocks[i], 1));
        uint64_t three = 3 * (size + PAGE);
        CHECK(get(&q->h->kept_bytes) <= (three < KEPT_BYTES       ? KEPT_BYTES
                                         : three < KEPT_BYTES_MAX ? three
                                                                  : KEPT_BYTES_MAX));
        audit(q, 0);
    }
    MUST(q_set_max_kept(q, 3 << 20, 1));
    SAME(q_max_kept(q), 3 << 20);
    for (int i = 0; i < 8; i++) MUST(q_block_new(q, 1000000, &blocks[i], &data, 1));
    for (int i = 0; i < 8; i++) MUST(q_block_free(q, blocks[i], 1));
    CHECK(get(&q->h->kept_bytes) > 2 << 20);
    audit(q, 0);
    /* Another size is worth more than what was used before. */
    MUST(q_block_new(q, 2500000, &blocks[0], &data, 1));
    MUST(q_block_free(q, blocks[0], 1));
    CHECK(get(&q->h->kept_block[6]) == blocks[0]);
    MUST(q_block_new(q, 2400000, &blocks[1], &data, 1));
    SAME(blocks[1], blocks[0]);
    MUST(q_block_free(q, blocks[1], 1));
    MUST(q_set_max_kept(q, 100000, 1));
    SAME(get(&q->h->kept_bytes), 0);
    MUST(q_set_max_kept(q, 0, 1));
    put(q, 40, 0, 0);
    MUST(q_trim(q, &given, 1));
    SAME(given, 0);
    audit(q, 0);
    q_detach(q);
}

/* Control groups, as files of a folder say. */
static void a_full_group_refuses(void) {
    char folder[] = "/tmp/qmill-group-XXXXXX", most[64], used[64], details[64];
    CHECK(mkdtemp(folder));
    snprintf(most, sizeof most, "%s/most", folder);
    snprintf(used, sizeof used, "%s/used", folder);
    snprintf(details, sizeof details, "%s/details", folder);
    pid_t child = fork(); /* as this lasts for the process */
    if (!child) {
        q_group group = {most, used, details};
        q_queue *q = new_ring(0);
        uint64_t block;
        void *data;
        write_file(most, "100000000\n");
        write_file(used, "10000000\n");
        write_file(details, "anon 1\ninactive_file 0\nactive_file 0\n");
        CHECK(!q_watch_groups(&group, 1));
        q_refused();
        MUST(q_block_new(q, 5000000, &block, &data, 1));
        SAME(q_block_new(q, 90000000, &block, &data, 1), Q_NO_MEMORY);
        q_refusal why = q_refused();
        SAME(why.limit, Q_GROUP);
        SAME(why.used, 10000000);
        SAME(why.most, 100000000);
        write_file(used, "97000000\n"); /* into the margin */
        SAME(q_block_new(q, 1000000, &block, &data, 1), Q_NO_MEMORY);
        audit(q, 1);
        write_file(details, "anon 1\ninactive_file 20000000\nactive_file 1000000\n");
        MUST(q_block_new(q, 9000000, &block, &data, 1)); /* files can give theirs back */
        write_file(most, "max\n");
        MUST(q_block_new(q, 90000000, &block, &data, 1));
        unlink(most);
        MUST(q_block_new(q, 40000000, &block, &data, 1));
        q_detach(q);
        _exit(0);
    }
    SAME(end_of(child), 0);
    unlink(most), unlink(used), unlink(details), rmdir(folder);
}

static void held_for_ever(void) {
    q_queue *q = new_ring(0);
    uint32_t reader, number = quick ? 100000 : 1000000;
    q_item held[2], items[100];
    size_t taken;
    MUST(q_reader_new(q, &reader, 1));
    put(q, 40, 0, 0);
    MUST(q_take(q, reader, &held[0], 1, &taken, 1));
    static uint8_t data[100][40];
    q_message messages[100];
    for (uint32_t i = 0; i < number; i += 100) {
        size_t done = 0;
        for (uint32_t j = 0; j < 100; j++) {
            fill(data[j], 40, 0, i + j);
            messages[j] = (q_message){data[j], 40, 0, NULL, 0};
        }
        MUST(q_put_many(q, messages, 100, &done, 1));
        if (i == number / 2) MUST(q_take(q, reader, &held[1], 1, &taken, 1));
        for (size_t rest = i == number / 2 ? 99 : 100; rest; rest -= taken) {
            MUST(q_take(q, 0, items, 100, &taken, 1));
            for (size_t j = 0; j < taken; j++) MUST(q_done(q, &items[j], 1));
        }
    }
    CHECK(get(&q->h->num_chunks) < 40);
    CHECK(file_blocks(q) < UINT64_C(8) << 20);
    audit(q, 0);
    SAME(marked(held[0].data, held[0].size).number, 0);
    SAME(marked(held[1].data, held[1].size).number, number / 2);
    MUST(q_lease_give_back(q, reader, held[1].record, 1));
    MUST(q_lease_give_back(q, reader, held[0].record, 1));
    mark m;
    MUST(try_take(q, &m));
    SAME(m.number, 0);
    MUST(try_take(q, &m));
    SAME(m.number, number / 2);
    audit(q, 0);
    q_detach(q);
}

static void large_over_many_borders(void) {
    q_queue *q = new_ring(0);
    q_item items[100];
    size_t taken;
    for (int round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < 100; i++) put(q, 16000, 0, i);
        MUST(q_take(q, 0, items, 100, &taken, 1));
        SAME(taken, 100);
        audit(q, 0);
        for (uint32_t i = 0; i < 100; i++) MUST(q_done(q, &items[i], 1));
    }
    SAME(q_take(q, 0, items, 1, &taken, 1), Q_EMPTY);
    SAME(audit(q, 0), 1);
    q_detach(q);
}

/* -- many at once ------------------------------------------------------------------------------- */

typedef struct {
    q_queue *q;
    uint32_t producer, number;
    _Atomic uint32_t *left;
} part;

static void *produce(void *argument) {
    const part *p = argument;
    for (uint32_t i = 0; i < p->number; i++) {
        for (;;) {
            uint32_t sequence = q_announce(p->q, Q_SPACE);
            q_status status = try_put(p->q, i % 100 == 99 ? 20000 : 24, p->producer, i);
            if (status == Q_OK) break;
            CHECK(status == Q_FULL || status == Q_BUSY);
            if (status == Q_FULL) q_sleep(p->q, Q_SPACE, sequence, 100000000);
        }
    }
    return NULL;
}

static void *consume(void *argument) {
    const part *p = argument;
    uint32_t next[8] = {0};
    while (atomic_load(p->left)) {
        mark m;
        uint32_t sequence = q_announce(p->q, Q_ITEMS);
        q_status status = try_take(p->q, &m);
        if (status == Q_EMPTY && atomic_load(p->left))
            q_sleep(p->q, Q_ITEMS, sequence, 100000000);
        if (status == Q_EMPTY || status == Q_BUSY) continue;
        SAME(status, Q_OK);
        CHECK(m.producer < 8 && m.number >= next[m.producer]);
        next[m.producer] = m.number + 1;
        atomic_fetch_sub(p->left, 1);
    }
    return NULL;
}

static void threads(void) {
    uint32_t number = quick ? 2000 : 30000;
    for (unsigned each = 1; each <= 2; each++) {
        for (uint64_t maxsize = 0; maxsize <= 10; maxsize += 10) {
            q_queue *q = new_ring(maxsize);
            _Atomic uint32_t left = number * each;
            pthread_t ids[4];
            part parts[4];
            for (unsigned i = 0; i < 2 * each; i++) {
                parts[i] = (part){q, i / 2, number, &left};
                CHECK(!pthread_create(&ids[i], NULL, i % 2 ? consume : produce, &parts[i]));
            }
            for (unsigned i = 0; i < 2 * each; i++) CHECK(!pthread_join(ids[i], NULL));
            SAME(counts_of(q).unfinished, 0);
            SAME(counts_of(q).put, number * each);
            mark m;
            SAME(try_take(q, &m), Q_EMPTY);
            audit(q, 0);
            q_detach(q);
        }
    }
}

static void processes(void) {
    uint32_t number = quick ? 5000 : 50000;
    _Atomic uint32_t *left =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(left != MAP_FAILED);
    for (uint64_t maxsize = 0; maxsize <= 10; maxsize += 10) {
        q_queue *q = new_ring(maxsize);
        atomic_store(left, 2 * number);
        pid_t children[4];
        for (uint32_t i = 0; i < 4; i++) {
            children[i] = fork();
            if (children[i]) continue;
            part p = {q, i / 2, number, left};
            if (i / 2) { /* a mapping of its own */
                MUST(q_attach(dup(q_fd(q)), UUID, &p.q));
            }
            (i % 2 ? consume : produce)(&p);
            MUST(q_leave(p.q, 1, 1));
            _exit(0);
        }
        for (int i = 0; i < 4; i++) SAME(end_of(children[i]), 0);
        MUST(q_sweep(q, 0, 1));
        q_counts c = counts_of(q);
        SAME(c.unfinished, 0);
        SAME(c.lost, 0);
        SAME(c.put, 2 * number);
        audit(q, 0);
        q_detach(q);
    }
    munmap(left, 4096);
}

static void forks(void) {
    q_queue *q = new_ring(0);
    q_item item;
    size_t number;
    void *into;
    uint64_t block;
    uint32_t reader;
    put(q, 50000, 0, 0);
    put(q, 40, 0, 1);
    MUST(q_reader_new(q, &reader, 1));
    MUST(q_take(q, 0, &item, 1, &number, 1));
    MUST(q_block_new(q, 100, &block, &into, 1));
    pid_t child = fork();
    if (!child) { /* may not touch what is its parent's */
        MUST(q_done(q, &item, 1));
        MUST(q_give_back(q, &item, 1));
        MUST(q_block_free(q, block, 1));
        MUST(q_lease_done(q, reader, item.record, 1));
        MUST(q_reader_close(q, reader, 1));
        MUST(q_leave(q, 1, 1));
        mark m;
        MUST(try_take(q, &m)); /* but takes part itself */
        SAME(m.number, 1);
        q_detach(q);
        _exit(0);
    }
    SAME(end_of(child), 0);
    MUST(q_sweep(q, 0, 1));
    SAME(counts_of(q).unfinished, 1);
    SAME(marked(item.data, item.size).number, 0);
    MUST(q_done(q, &item, 1));
    MUST(q_block_free(q, item.block, 1));
    MUST(q_task_done(q, 1));
    MUST(q_block_free(q, block, 1));
    SAME(counts_of(q).lost, 0);
    audit(q, 0);
    q_detach(q);
}

static volatile _Atomic int writes;
static word *written[2];

static void *write_both(void *nothing) {
    for (uint64_t i = 1; atomic_load(&writes); i++) {
        set(written[0], i);
        set(written[1], i);
    }
    return nothing;
}

static void take_one(q_queue *q, q_item *item) {
    size_t number;
    MUST(q_take(q, 0, item, 1, &number, 1));
    SAME(number, 1);
    MUST(q_done(q, item, 1));
    MUST(q_task_done(q, 1));
}

/* A thread writes to a message that its process has: a child sees one moment, that of the fork. */
static void a_child_has_lent_memory_as_it_was(void) {
    q_queue *q = new_ring(0);
    q_item item, other;
    q_lent lent, lent_other, lent_last;
    pthread_t writer;
    uint64_t size = quick ? UINT64_C(1) << 20 : UINT64_C(40) << 20;
    put(q, 100000, 0, 0); /* in the same segment, and nobody writes to it */
    take_one(q, &other);
    q_lend(q, &other, &lent_other);
    put(q, size, 0, 1);
    take_one(q, &item);
    q_lend(q, &item, &lent);
    written[0] = (word *)(uintptr_t)item.data;
    written[1] = (word *)(uintptr_t)item.data + size / 8 - 1;
    set(written[0], 0);
    set(written[1], 0);
    atomic_store(&writes, 1);
    CHECK(!pthread_create(&writer, NULL, write_both, NULL));
    for (int i = 0; i < (quick ? 20 : 200); i++) {
        pid_t child = fork();
        if (!child) {
            uint64_t first = get(written[0]), last = get(written[1]);
            CHECK(first == last || first == last + 1);
            SAME(marked(other.data, other.size).number, 0);
            set(written[0], 7); /* its own */
            put(q, 100000, 0, 2);
            take_one(q, &item);
            SAME(marked(item.data, item.size).number, 2);
            q_lend(q, &item, &lent_last);
            pid_t grandchild = fork();
            if (!grandchild) {
                SAME(get(written[0]), 7);
                SAME(marked(item.data, item.size).number, 2);
                q_lent_back(&lent);
                q_lent_back(&lent_last);
                _exit(0);
            }
            SAME(end_of(grandchild), 0);
            q_lent_back(&lent_last);
            q_lent_back(&lent);
            SAME(marked(other.data, other.size).number, 0);
            q_lent_back(&lent_other);
            put(q, 100000, 0, 3);
            take_one(q, &item);
            SAME(marked(item.data, item.size).number, 3);
            MUST(q_block_free(q, item.block, 1));
            MUST(q_leave(q, 0, 1));
            q_detach(q);
            _exit(0);
        }
        SAME(end_of(child), 0);
    }
    atomic_store(&writes, 0);
    CHECK(!pthread_join(writer, NULL));
    SAME(marked(other.data, other.size).number, 0);
    q_lent_back(&lent_other);
    q_lent_back(&lent);
    pid_t child = fork(); /* what another process writes there now is seen here */
    if (!child) {
        put(q, 100000, 0, 4);
        put(q, size, 0, 5);
        _exit(0);
    }
    SAME(end_of(child), 0);
    for (uint32_t i = 4; i < 6; i++) {
        take_one(q, &item);
        SAME(marked(item.data, item.size).number, i);
        MUST(q_block_free(q, item.block, 1));
    }
    audit(q, 0);
    q_detach(q);
}

/* A program has closed the file: a fork cannot map it again, and copies; nor can a block go back. */
static void lent_memory_of_a_file_that_was_closed(void) {
    q_queue *q = new_ring(0);
    q_item item;
    q_lent lent;
    put(q, 100000, 0, 1);
    take_one(q, &item);
    q_lend(q, &item, &lent);
    int fd = dup(q->fd);
    close(q->fd);
    for (int is_open = 0; is_open < 2; is_open++) {
        pid_t child = fork();
        if (!child) {
            SAME(marked(item.data, item.size).number, 1);
            memset((void *)(uintptr_t)item.data, 0, item.size);
            q_lent_back(&lent);
            _exit(0);
        }
        SAME(end_of(child), 0);
        SAME(marked(item.data, item.size).number, 1);
        SAME(lent.pages, is_open ? LENT_PRIVATE : LENT_PARTLY_PRIVATE);
        if (!is_open) CHECK(dup2(fd, q->fd) == q->fd);
    }
    close(q->fd);
    q_lent_back(&lent);
    CHECK(dup2(fd, q->fd) == q->fd);
    uint32_t slot = q->slot;
    MUST(q_leave(q, 0, 1)); /* its slot stays: it owns the block until it ends */
    CHECK((get(&q->h->slots[slot].kind_number) & 0xff) == SLOT_LEFT);
    close(fd);
    q_detach(q);
}

/* -- what once went wrong ----------------------------------------------------------------------- */

static q_queue *at_point_queue;

static void put_at_announce(int point) {
    if (point != 50) return;
    q_at_point = NULL;
    put(at_point_queue, 40, 0, 0);
}

static void no_wake_up_is_lost_while_one_announces(void) {
    q_queue *q = at_point_queue = new_ring(0);
    q_at_point = put_at_announce;
    uint32_t sequence = q_announce(q, Q_ITEMS);
    mark m;
    MUST(try_take(q, &m)); /* somebody else takes it */
    put(q, 40, 0, 1);
    CHECK(sequence != q->h->events[Q_ITEMS].sequence);
    q_detach(q);
}

static void without_descriptors_nobody_is_dead(void) {
    q_queue *q = new_ring(0);
    uint32_t reader;
    q_item item;
    size_t number;
    put(q, 40, 0, 0);
    MUST(q_reader_new(q, &reader, 1));
    MUST(q_take(q, reader, &item, 1, &number, 1));
    struct rlimit limit, none;
    CHECK(!getrlimit(RLIMIT_NOFILE, &limit));
    none = limit;
    none.rlim_cur = 0;
    CHECK(!setrlimit(RLIMIT_NOFILE, &none));
    pid_t child = fork();
    if (!child) {
        MUST(q_sweep(q, 0, 1));
        put(q, 40, 0, 1); /* takes part without a look at /proc */
        CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
        MUST(q_sweep(q, 0, 1));
        CHECK(q->slot && get(&q->h->slots[q->slot].kind_number));
        _exit(0);
    }
    CHECK(!setrlimit(RLIMIT_NOFILE, &limit));
    SAME(end_of(child), 0);
    SAME(counts_of(q).leased, 1);
    SAME(counts_of(q).redelivered, 0);
    q_detach(q);
}

static q_queue *of_thread;
static int thread_says[2], thread_goes[2];

static void *outlive(void *argument) {
    (void)argument;
    char c = 0;
    CHECK(write(thread_says[1], &c, 1) == 1);
    CHECK(read(thread_goes[0], &c, 1) == 1);
    _exit(0);
}

static void a_process_lives_as_long_as_its_threads(void) {
    q_queue *q = of_thread = new_ring(0);
    CHECK(!pipe(thread_says) && !pipe(thread_goes));
    put(q, 40, 0, 0);
    char c = 0, path[40], text[400];
    pid_t child = fork();
    if (!child) {
        uint32_t reader;
        q_item item;
        size_t number;
        pthread_t id;
        MUST(q_reader_new(q, &reader, 1));
        MUST(q_take(q, reader, &item, 1, &number, 1));
        CHECK(!pthread_create(&id, NULL, outlive, NULL));
        syscall(SYS_exit, 0); /* of this thread only */
    }
    CHECK(read(thread_says[0], &c, 1) == 1);
    snprintf(path, sizeof path, "/proc/%d/stat", (int)child);
    for (;;) { /* until it is shown as a zombie */
        int fd = open(path, O_RDONLY);
        ssize_t size = read(fd, text, sizeof text - 1);
        CHECK(size > 0);
        close(fd);
        text[size] = 0;
        if (strstr(text, ") Z ")) break;
        sched_yield();
    }
    MUST(q_sweep(q, 0, 1));
    SAME(counts_of(q).leased, 1);
    CHECK(write(thread_goes[1], &c, 1) == 1);
    SAME(end_of(child), 0);
    MUST(q_sweep(q, 0, 1));
    SAME(counts_of(q).leased, 0);
    for (int i = 0; i < 2; i++) close(thread_says[i]), close(thread_goes[i]);
    q_detach(q);
}

static void a_full_table_of_dead_ones_is_swept(void) {
    for (int as_reader = 0; as_reader < 2; as_reader++) {
        q_queue *q = new_ring(0);
        pid_t child = fork();
        if (!child) {
            uint32_t reader;
            q_status status;
            do status = q_reader_new(q, &reader, 1);
            while (status == Q_OK);
            SAME(status, Q_NO_SLOT);
            raise(SIGKILL);
        }
        SAME(end_of(child), KILLED);
        child = fork();
        if (!child) {
            uint32_t reader;
            if (as_reader) {
                q->slot = 1; /* as if it had one */
                q->generation = q_fork_generation();
                q->number = 1;
                MUST(q_reader_new(q, &reader, 1));
            } else {
                put(q, 40, 0, 0);
            }
            _exit(0);
        }
        SAME(end_of(child), 0);
        q_detach(q);
    }
}

/* A child stops in the middle of what it does under a lock; the others do not. */
static pid_t stopped_with(q_queue *q, struct lock *lock) {
    int says[2];
    char c = 0;
    CHECK(!pipe(says));
    pid_t child = fork();
    if (!child) {
        MUST(take_lock(q, lock, 1));
        CHECK(write(says[1], &c, 1) == 1);
        raise(SIGSTOP);
        unlock(lock);
        _exit(0);
    }
    CHECK(read(says[0], &c, 1) == 1);
    for (int i = 0; i < 2; i++) close(says[i]);
    int status;
    CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    return child;
}

static void go_on(pid_t child) {
    CHECK(!kill(child, SIGCONT));
    SAME(end_of(child), 0);
}

static void producers_do_not_wait_for_a_stopped_consumer(void) {
    q_queue *q = new_ring(0);
    put(q, 40, 0, 0); /* takes part, for which it needs that lock once */
    pid_t child = stopped_with(q, &q->h->get);
    put(q, 40, 0, 0);
    pid_t killed = fork(); /* not even after one of them was killed */
    if (!killed) {
        MUST(take_lock(q, &q->h->put, 1));
        raise(SIGKILL);
    }
    SAME(end_of(killed), KILLED);
    put(q, 40, 0, 1);
    q_item item;
    size_t number;
    SAME(q_take(q, 0, &item, 1, &number, 0), Q_BUSY);
    SAME(q_take(q, 0, &item, 1, &number, 1), Q_BUSY);
    go_on(child);
    MUST(q_take(q, 0, &item, 1, &number, 1));
    q_detach(q);
}

static void a_stopped_allocator_holds_up_only_what_needs_it(void) {
    q_queue *q = new_ring(0);
    uint8_t data[16000] = {0};
    mark m;
    for (uint32_t i = 0; i < 8; i++) put(q, 16000, 0, i); /* two chunks */
    pid_t child = stopped_with(q, &q->h->allocate);
    SAME(q_put(q, data, sizeof data, 1), Q_BUSY); /* and does not turn for ever */
    SAME(q_end(q, NULL, 0, 1), Q_OK);
    for (uint32_t i = 0; i < 8; i++) { /* over a border: its chunk is freed later */
        MUST(try_take(q, &m));
        SAME(m.number, i);
    }
    go_on(child);
    MUST(try_take(q, &m));
    SAME(try_take(q, &m), Q_EMPTY);
    put(q, 16000, 0, 8);
    MUST(try_take(q, &m));
    SAME(audit(q, 0), 1);
    q_detach(q);
}

static void what_a_leaving_process_took_is_not_filled_anew(void) {
    q_queue *q = new_ring(0);
    put(q, 50000, 0, 0);
    q_item item;
    size_t number;
    MUST(q_take(q, 0, &item, 1, &number, 1));
    MUST(q_leave(q, 1, 1));
    put(q, 50000, 0, 1);
    SAME(marked(item.data, item.size).number, 0);
    mark m;
    MUST(try_take(q, &m));
    SAME(m.number, 1);
    audit(q, 1); /* until it is dead */
    q_detach(q);
}

static void who_has_left_marks_nothing(void) {
    q_queue *q = new_ring(0);
    put(q, 40, 0, 0);
    q_item item;
    size_t number;
    MUST(q_take(q, 0, &item, 1, &number, 1));
    MUST(q_leave(q, 1, 1));
    struct record *r = (struct record *)item.data - 1;
    SAME(what_of(get(&r->state)), DONE);
    set(&r->state, WAITING); /* as if it were another record by now */
    MUST(q_done(q, &item, 1));
    SAME(what_of(get(&r->state)), WAITING);
    q_detach(q);
}

static void task_done_in_advance_is_no_loss(void) {
    q_queue *q = new_ring(0);
    for (uint32_t i = 0; i < 3; i++) put(q, 40, 0, i);
    for (int i = 0; i < 3; i++) MUST(q_task_done(q, 1));
    SAME(q_task_done(q, 1), Q_TOO_OFTEN);
    pid_t child = fork();
    if (!child) {
        q_item item;
        size_t number;
        MUST(q_take(q, 0, &item, 1, &number, 1));
        raise(SIGKILL);
    }
    SAME(end_of(child), KILLED);
    MUST(q_sweep(q, 0, 1));
    q_counts c = counts_of(q);
    SAME(c.lost, 0);
    SAME(c.unfinished, 0);
    SAME(c.size, 2);
    q_detach(q);
}

/* A file from before a restart of the machine: its locks are held by who is not there, its processes
 * have numbers that others have now, and its pid namespace is another. */
static void who_is_alone_takes_over_a_file_of_another_boot(void) {
    q_queue *old = new_ring(0);
    for (uint32_t i = 0; i < 4; i++) put(old, i == 2 ? 50000 : 40, 0, i);
    uint32_t reader;
    q_item item;
    size_t number;
    MUST(q_reader_new(old, &reader, 1));
    MUST(q_take(old, reader, &item, 1, &number, 1));
    int fd = fcntl(q_fd(old), F_DUPFD_CLOEXEC, 0), again = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    CHECK(fd >= 0 && again >= 0);
    struct header *h = old->h;
    h->pid_namespace++;
    struct lock *locks[] = {&h->put, &h->get, &h->allocate};
    for (int i = 0; i < 3; i++) locks[i]->mutex.__data.__lock = 0x3ffffff; /* nobody's, for ever */
    end_life(old->life);
    q_detach(old);
    q_queue *q = NULL;
    SAME(q_attach(fd, NULL, &q), Q_FOREIGN);
    MUST(q_adopt(again, &q));
    CHECK(!memcmp(q_uuid(q), UUID, sizeof UUID));
    MUST(q_sweep(q, 0, 1));
    SAME(counts_of(q).redelivered, 1);
    for (uint32_t i = 0; i < 4; i++) {
        mark m;
        MUST(try_take(q, &m));
        SAME(m.number, i);
    }
    put(q, 40, 0, 4);
    SAME(counts_of(q).size, 1);
    close(fd);
    q_detach(q);
}

static void a_batch_that_finds_no_memory_leaks_no_chunk(void) {
    q_queue *q = new_ring(0);
    static uint8_t data[12][16000];
    q_message messages[12];
    for (uint32_t i = 0; i < 12; i++) {
        fill(data[i], 16000, 0, i);
        messages[i] = (q_message){data[i], 16000, 0, NULL, 0};
    }
    messages[5] = (q_message){NULL, 50000, UINT64_C(1) << 50, NULL, 0}; /* in the middle: no block */
    size_t done = 0;
    SAME(q_put_many(q, messages, 12, &done, 1), Q_CORRUPT);
    SAME(done, 5);
    audit(q, 0);
    struct rlimit limit, small;
    CHECK(!getrlimit(RLIMIT_FSIZE, &limit));
    small = limit;
    small.rlim_cur = get(&q->h->file_bytes);
    signal(SIGXFSZ, SIG_IGN);
    CHECK(!setrlimit(RLIMIT_FSIZE, &small));
    messages[5] = messages[4];
    q_status status;
    uint32_t puts = 0;
    do {
        done = 0;
        status = q_put_many(q, messages, 12, &done, 1);
        puts += (uint32_t)done;
    } while (status == Q_OK);
    SAME(status, Q_NO_MEMORY);
    audit(q, 0);
    mark m;
    for (uint32_t i = 0; i < 5 + puts; i++) MUST(try_take(q, &m));
    SAME(try_take(q, &m), Q_EMPTY);
    done = 0;
    MUST(q_put_many(q, messages, 4, &done, 1)); /* after a drain there is room again */
    CHECK(!setrlimit(RLIMIT_FSIZE, &limit));
    audit(q, 0);
    q_detach(q);
}

static void a_damaged_size_shortens_no_file(void) {
    static const uint64_t ODD[] = {0, 8, 4096, 65536, UINT64_C(1) << 62, UINT64_MAX};
    for (size_t i = 0; i < sizeof ODD / sizeof *ODD; i++) {
        q_queue *q = new_ring(0);
        struct stat before, after;
        uint64_t block;
        void *data;
        put(q, 40, 0, 0);
        CHECK(!fstat(q_fd(q), &before));
        set(&q->h->file_bytes, ODD[i]);
        q_block_new(q, 9 << 20, &block, &data, 1);
        CHECK(!fstat(q_fd(q), &after));
        CHECK(after.st_size >= before.st_size);
        mark m;
        MUST(try_take(q, &m));
        q_detach(q);
    }
}

/* -- all of it ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} TESTS[] = {
#define TEST(name) {#name, name}
    TEST(sizes), TEST(batches), TEST(bounded), TEST(another_limit), TEST(leases), TEST(releases),
    TEST(delays), TEST(who_leaves_gives_back), TEST(ends), TEST(shutdowns),
    TEST(peeks), TEST(definitions), TEST(poison), TEST(growth), TEST(held_for_ever),
    TEST(a_queue_with_a_message_is_small), TEST(sizes_that_rise_and_fall),
    TEST(what_is_kept_is_bounded), TEST(a_full_group_refuses),
    TEST(large_over_many_borders), TEST(threads), TEST(processes), TEST(forks),
    TEST(a_child_has_lent_memory_as_it_was), TEST(lent_memory_of_a_file_that_was_closed),
    TEST(no_wake_up_is_lost_while_one_announces), TEST(without_descriptors_nobody_is_dead),
    TEST(a_process_lives_as_long_as_its_threads), TEST(a_full_table_of_dead_ones_is_swept),
    TEST(producers_do_not_wait_for_a_stopped_consumer),
    TEST(a_stopped_allocator_holds_up_only_what_needs_it),
    TEST(what_a_leaving_process_took_is_not_filled_anew), TEST(who_has_left_marks_nothing),
    TEST(task_done_in_advance_is_no_loss),
    TEST(who_is_alone_takes_over_a_file_of_another_boot),
    TEST(a_batch_that_finds_no_memory_leaks_no_chunk), TEST(a_damaged_size_shortens_no_file),
};

int main(int argc, char **argv) {
    int first = 1, number = 0;
    setbuf(stdout, NULL);
    if (argc > 1 && !strcmp(argv[1], "quick")) quick = first++;
    for (size_t i = 0; i < sizeof TESTS / sizeof *TESTS; i++) {
        int wanted = first == argc;
        for (int a = first; a < argc; a++) wanted |= !strcmp(argv[a], TESTS[i].name);
        if (!wanted) continue;
        snprintf(context, sizeof context, "%s", TESTS[i].name);
        alarm(120);
        TESTS[i].run();
        number++;
    }
    printf("%d tests\n", number);
    return !number;
}
