/* A file with damaged words: whatever is called, there is a status, no crash and no endless loop.
 * `test_fuzz quick`, or `test_fuzz SEED CASES`. Each case runs in a child of its own. */
#include "native.h"

#include <sys/resource.h>

static uint64_t state;

static uint64_t next_random(void) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * UINT64_C(2685821657736338717);
}

static uint64_t one_of(uint64_t number) { return next_random() % number; }

/* A queue with some of everything in it. */
static q_queue *busy_ring(void) {
    q_queue *q = new_ring(one_of(2) ? 200 : 0);
    uint32_t reader;
    q_item items[8];
    size_t number;
    for (uint32_t i = 0; i < 24; i++) put(q, i % 5 == 1 ? 30000 : i % 3 ? 40 : 9000, 0, i);
    MUST(q_end(q, "tag", 3, 1));
    for (uint32_t i = 24; i < 30; i++) put(q, 40, 0, i);
    MUST(q_define(q, "key", 3, "value", 5, 1));
    MUST(q_reader_new(q, &reader, 1));
    MUST(q_take(q, reader, items, 8, &number, 1));
    MUST(q_lease_give_back(q, reader, items[3].record, 1));
    MUST(q_lease_give_back(q, reader, items[6].record, 1));
    MUST(q_lease_done(q, reader, items[1].record, 1));
    MUST(q_take(q, 0, items, 4, &number, 1));
    MUST(q_done(q, &items[0], 1));
    return q;
}

static uint64_t changed(uint64_t value) {
    static const uint64_t ODD[] = {0, 1, 8, 64, 4096, 65536, UINT64_C(1) << 40, UINT64_C(1) << 63,
                                   UINT64_MAX, UINT32_MAX, 3, 7, UINT64_MAX - 7};
    switch (one_of(4)) {
    case 0: return value ^ UINT64_C(1) << one_of(64);
    case 1: return ODD[one_of(sizeof ODD / sizeof *ODD)];
    case 2: return value + ODD[one_of(sizeof ODD / sizeof *ODD)];
    default: return next_random();
    }
}

/* Where to write: the header's words, a lock, the tables, a record, or a block's head. */
static uint64_t *somewhere(q_queue *q, const char **what) {
    struct header *h = q->h;
    uint64_t *words = (uint64_t *)h;
    switch (one_of(6)) {
    case 0:
        *what = "header";
        return words + one_of(offsetof(struct header, events) / 8);
    case 1:
        *what = "counts";
        return words + offsetof(struct header, num_ends_gone) / 8 +
               one_of((offsetof(struct header, allocate) - offsetof(struct header, num_ends_gone)) / 8);
    case 2:
        *what = "segments and slots";
        return one_of(2) ? (uint64_t *)&h->segments[one_of(6)] + one_of(3)
                         : (uint64_t *)&h->slots[one_of(6)] + one_of(5);
    case 3: {
        struct lock *locks[] = {&h->put, &h->get, &h->allocate};
        struct lock *lock = locks[one_of(3)];
        lock->number = 1 + (uint32_t)one_of(16); /* a journal that is to be applied */
        *what = "journal";
        return (uint64_t *)lock->journal + one_of(2 * JOURNAL_ENTRIES);
    }
    case 4: {
        uint64_t address = get(&h->oldest);
        *what = "record";
        for (uint64_t i = one_of(30); i && address != get(&position(&h->puts)->place); i--) {
            struct record *r = record_at(q, address);
            if (!r) break;
            address = kind_of(r) == Q_LINK ? get(&r->state) : address + r->bytes;
        }
        uint64_t *at_record = address % 8 ? NULL : at(q, address, 40);
        return at_record ? at_record + one_of(4) : words;
    }
    default: {
        uint64_t block = UINT64_C(1) << SEGMENT_SHIFT | one_of(3) * CHUNK_BYTES;
        uint64_t *head = at(q, block, 64);
        *what = "block";
        return head ? head + one_of(8) : words;
    }
    }
}

static void call_everything(int fd) {
    static uint8_t data[20000], into[70000];
    q_queue *q;
    if (q_attach(dup(fd), UUID, &q) != Q_OK) return;
    for (int round = 0; round < 3; round++) {
        q_item items[8];
        size_t number = 0, done = 0;
        uint64_t size, block, withdrawn;
        uint32_t kind, reader = 0;
        const void *value;
        void *room;
        q_counts counts;
        if (q_fetch(q, "key", 3, &value, &size) == Q_OK && size <= sizeof into)
            memcpy(into, value, size);
        q_define(q, "another", 7, data, sizeof data, 0);
        q_watch(q, Q_ITEMS);
        q_size_hint(q);
        q_full(q);
        q_statistics(q, &counts, 0);
        q_put(q, data, 40, 0);
        q_put(q, data, 16000, 0);
        if (q_block_new(q, 20000, &block, &room, 0) == Q_OK) {
            q_message message = {NULL, 20000, block, NULL, 0};
            memset(room, 1, 20000);
            if (q_put_many(q, &message, 1, &done, 0) != Q_OK) q_block_free(q, block, 0);
        }
        q_peek(q, into, sizeof into, &size, &kind, 0);
        if (q_reader_new(q, &reader, 0) == Q_OK) {
            q_reader_waits(q, reader, 1);
            if (q_take(q, reader, items, 4, &number, 0) == Q_OK) {
                for (size_t i = 0; i < number; i++) {
                    if (items[i].kind == Q_END) continue;
                    if (items[i].size) memcpy(into, items[i].data, 1);
                    if (i == 3)
                        q_release(q, reader, items[i].record, 1000, 0);
                    else
                        (i % 2 ? q_lease_done : q_lease_give_back)(q, reader, items[i].record, 0);
                }
            }
        }
        if (q_take(q, 0, items, 8, &number, 0) == Q_OK) {
            for (size_t i = 0; i < number; i++) {
                if (items[i].kind == Q_END) continue;
                if (i == 2)
                    q_give_back(q, &items[i], 0);
                else if (q_done(q, &items[i], 0) == Q_OK && items[i].block)
                    q_block_free(q, items[i].block, 0);
                q_task_done(q, 0);
            }
        }
        q_aside found = {into, sizeof into, 0, 0, 0};
        if (q_look_aside(q, 0, Q_LOGGED, &found, 0) == Q_OK) q_requeue(q, found.record, 0);
        q_newly_aside(q);
        q_end(q, "tag", 3, 0);
        q_withdraw(q, "tag", 3, &withdrawn, 0);
        q_sweep(q, 0, 0);
        if (reader) q_reader_close(q, reader, 0);
    }
    q_shutdown(q, 1, 0);
    q_leave(q, 0, 0);
    q_detach(q);
}

int main(int argc, char **argv) {
    int quick = argc > 1 && !strcmp(argv[1], "quick"), bad = 0;
    uint64_t seed = !quick && argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    uint64_t cases = quick ? 300 : argc > 2 ? strtoull(argv[2], NULL, 0) : 4000;
    struct rlimit none = {0, 0}, file = {UINT64_C(1) << 26, UINT64_C(1) << 26};
    CHECK(!setrlimit(RLIMIT_CORE, &none));
    CHECK(!setrlimit(RLIMIT_FSIZE, &file)); /* no damaged size fills the machine */
    signal(SIGXFSZ, SIG_IGN);
    for (uint64_t i = 0; i < cases; i++) {
        state = (seed + i) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        q_queue *q = busy_ring();
        const char *what = "";
        char words[200] = "";
        for (uint64_t n = 1 + one_of(3); n; n--) {
            uint64_t *where = somewhere(q, &what), value = changed(*where);
            size_t used = strlen(words);
            snprintf(words + used, sizeof words - used, " %s+%llu %llx->%llx", what,
                     (unsigned long long)((uint8_t *)where - (uint8_t *)q->h),
                     (unsigned long long)*where, (unsigned long long)value);
            *where = value;
        }
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) {
            alarm(10);
            call_everything(q_fd(q));
            _exit(0);
        }
        int end = end_of(child);
        if (end) {
            bad++;
            fprintf(stderr, "seed %llu: %s %d:%s\n", (unsigned long long)(seed + i),
                    end == 256 + SIGALRM ? "endless" : "crash", end, words);
        }
        q_detach(q);
    }
    printf("%llu damaged files, %d of them crash or hang\n", (unsigned long long)cases, bad);
    return bad != 0;
}
