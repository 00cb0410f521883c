/* Each operation is killed at each passing of each numbered point; whoever comes next finds a queue
 * that is whole. `test_kill quick` does a part of it, `test_kill sample` a small one; a name of an
 * operation behind that, only this one. */
#include "native.h"

#include <poll.h>
#include <sys/resource.h>

#define NUM_POINTS 64
#define OTHER_MAXSIZE 20
#define BIG 16000   /* four fit into a chunk */
#define LARGE 40000 /* has a block */

static int kill_at, kill_after;
static _Atomic int *passed; /* shared with children: how often each point was passed */

static void at_point(int number) {
    if (number < NUM_POINTS) passed[number]++;
    if (number == kill_at && --kill_after == 0) raise(SIGKILL);
}

/* -- what is killed ----------------------------------------------------------------------------- */

static uint32_t num_put, num_taken; /* by the parent, before */
static int num_ends;
static uint32_t reader;
static q_item items[64];
static size_t num_items;

static void parent_puts(q_queue *q, int number, uint64_t size) {
    while (number--) put(q, size, 0, num_put++);
}

static void parent_takes(q_queue *q, int number) {
    mark m;
    while (number--) {
        MUST(try_take(q, &m));
        SAME(m.number, num_taken);
        num_taken++;
    }
}

static void takes(q_queue *q, uint32_t as, size_t limit) {
    MUST(q_take(q, as, items, limit, &num_items, 1));
}

static void batch(q_queue *q, size_t number, uint64_t size, uint64_t large_each) {
    static uint8_t data[32][BIG];
    q_message messages[32];
    for (size_t i = 0; i < number; i++) {
        messages[i] = (q_message){data[i], size, 0, NULL, 0};
        if (large_each && i % large_each == 0) {
            void *into;
            messages[i].size = LARGE;
            MUST(q_block_new(q, LARGE, &messages[i].block, &into, 1));
            fill(into, LARGE, 1, (uint32_t)i);
        } else {
            fill(data[i], size, 1, (uint32_t)i);
        }
    }
    size_t done = 0;
    MUST(q_put_many(q, messages, number, &done, 1));
}

static void nothing(q_queue *q) { (void)q; }
static void some(q_queue *q) {
    parent_puts(q, 3, 40);
    parent_puts(q, 1, LARGE);
    parent_puts(q, 2, 40);
}
static void bigs(q_queue *q) { parent_puts(q, 11, BIG); }
static void to_border(q_queue *q) { parent_puts(q, 4, BIG); }
static void large_first(q_queue *q) {
    parent_puts(q, 1, LARGE);
    parent_puts(q, 2, 40);
}
static void used_blocks(q_queue *q) {
    parent_puts(q, 2, LARGE);
    parent_takes(q, 2);
}
static void one_chunk_done(q_queue *q) {
    bigs(q);
    parent_takes(q, 4);
}
static void ends(q_queue *q) {
    some(q);
    MUST(q_end(q, "x", 1, 1));
    parent_puts(q, 1, 40);
    MUST(q_end(q, "x", 1, 1));
    num_ends = 2;
}

static void put_small(q_queue *q) { put(q, 40, 1, 0); }
static void put_big(q_queue *q) { put(q, BIG, 1, 0); }
static void put_large(q_queue *q) { put(q, LARGE, 1, 0); }
static void put_batch(q_queue *q) { batch(q, 20, 40, 0); }
static void put_large_batch(q_queue *q) { batch(q, 20, 40, 3); }
static void put_big_batch(q_queue *q) { batch(q, 20, BIG, 5); }
static void take_one(q_queue *q) { takes(q, 0, 1); }
static void take_all(q_queue *q) { takes(q, 0, 64); }
static void take_and_end(q_queue *q) {
    for (int i = 0; i < 9; i++) {
        if (q_take(q, 0, items, 1, &num_items, 1) != Q_OK) return;
        if (items[0].kind != Q_END) MUST(q_done(q, &items[0], 1));
    }
}
static void new_reader(q_queue *q) { MUST(q_reader_new(q, &reader, 1)); }
static void lease_one(q_queue *q) {
    new_reader(q);
    takes(q, reader, 1);
}
static void lease_four(q_queue *q) {
    new_reader(q);
    takes(q, reader, 4);
}
static void lease_most(q_queue *q) { /* and finish all but the first: its chunks stay */
    new_reader(q);
    takes(q, reader, 7);
}
static void lease(q_queue *q) { takes(q, reader, 4); }
static void done(q_queue *q) { MUST(q_done(q, &items[0], 1)); }
static void done_and_free(q_queue *q) {
    done(q);
    MUST(q_block_free(q, items[0].block, 1));
}
static void give_back_one(q_queue *q) { MUST(q_give_back(q, &items[0], 1)); }
static void lease_done_one(q_queue *q) { MUST(q_lease_done(q, reader, items[0].record, 1)); }
static void next(q_queue *q) {
    q_status status;
    PATIENTLY(status, q_next(q, reader, items[0].record, &items[1], 1));
    SAME(status, Q_OK);
}
static void lease_done_last(q_queue *q) {
    for (size_t i = 1; i < num_items; i++) MUST(q_lease_done(q, reader, items[i].record, 1));
}
static void lease_given_back(q_queue *q) {
    for (size_t i = 0; i < num_items; i++) MUST(q_lease_give_back(q, reader, items[i].record, 1));
}
static void release_all(q_queue *q) {
    for (size_t i = 0; i < num_items; i++) MUST(q_release(q, reader, items[i].record, i % 2, 1));
}
static void release_and_wait(q_queue *q) {
    lease_four(q);
    release_all(q);
    poll(NULL, 0, 3);
}
static void one_aside(q_queue *q) {
    parent_puts(q, 2, LARGE);
    for (int i = 0; i < POISON_DEATHS; i++) {
        pid_t child = fork();
        if (!child) {
            lease_one(q);
            raise(SIGKILL);
        }
        SAME(end_of(child), KILLED);
        MUST(q_sweep(q, 0, 1));
    }
}
static void requeue(q_queue *q) {
    q_aside found = {NULL, 0, 0, 0, 0};
    MUST(q_look_aside(q, 0, Q_ANY, &found, 1));
    MUST(q_requeue(q, found.record, 1));
}
static void take_returned_one(q_queue *q) {
    takes(q, reader, 4);
    MUST(q_lease_done(q, reader, items[0].record, 1));
}
static void lease_and_return(q_queue *q) {
    lease_four(q);
    lease_given_back(q);
}
static void close_reader(q_queue *q) { MUST(q_reader_close(q, reader, 1)); }
static void end(q_queue *q) { MUST(q_end(q, "tag", 3, 1)); }
static void withdraw(q_queue *q) {
    uint64_t number;
    MUST(q_withdraw(q, "x", 1, &number, 1));
    SAME(number, 2);
}
static void is_task_done(q_queue *q) { MUST(q_task_done(q, 1)); }
static void take_done(q_queue *q) {
    take_one(q);
    done(q);
}
static void shut_down(q_queue *q) { MUST(q_shutdown(q, 1, 1)); }
static void shut_down_gently(q_queue *q) { MUST(q_shutdown(q, 0, 1)); }
static void define(q_queue *q) {
    static char data[LARGE];
    MUST(q_define(q, "key", 3, data, sizeof data, 1));
    MUST(q_define(q, "another", 7, data, 10, 1));
}
static void peek(q_queue *q) {
    char into[64];
    uint64_t size;
    uint32_t kind;
    MUST(q_peek(q, into, sizeof into, &size, &kind, 1));
}
static void statistics(q_queue *q) { counts_of(q); }
static void take_and_lease(q_queue *q) {
    takes(q, 0, 2);
    lease_one(q);
}
static void leave(q_queue *q) { MUST(q_leave(q, 1, 1)); }
static void compacts(q_queue *q) {
    set(&q->h->compact_at, 1);
    takes(q, 0, 1);
    takes(q, 0, 4);
}
static void with_a_dead_one(q_queue *q) { /* who took two, leases two and has a block */
    bigs(q);
    parent_puts(q, 1, LARGE);
    pid_t child = fork();
    if (!child) {
        void *into;
        takes(q, 0, 1);
        done(q);
        takes(q, 0, 1);
        new_reader(q);
        takes(q, reader, 2);
        MUST(q_block_new(q, LARGE, &(uint64_t){0}, &into, 1));
        raise(SIGKILL);
    }
    SAME(end_of(child), KILLED);
}
static void sweeps(q_queue *q) { MUST(q_sweep(q, 0, 1)); }
static uint64_t blocks[2];
static void two_huge(q_queue *q) {
    void *into;
    for (int i = 0; i < 2; i++) MUST(q_block_new(q, 9 << 20, &blocks[i], &into, 1));
    MUST(q_block_free(q, blocks[0], 1));
}
static void punch(q_queue *q) {
    void *into;
    MUST(q_block_free(q, blocks[1], 1));
    for (int i = 0; i < 2; i++) MUST(q_block_new(q, 9 << 20, &blocks[i], &into, 1));
}

static void trims(q_queue *q) {
    uint64_t given;
    MUST(q_trim(q, &given, 1));
}
static void kept_of_sizes(q_queue *q) { /* some of three sizes, of which two are the halves of one */
    static const uint64_t SIZES[] = {LARGE, 100000, 200000, LARGE, 100000};
    uint64_t some_blocks[5];
    void *into;
    for (int i = 0; i < 5; i++) MUST(q_block_new(q, SIZES[i], &some_blocks[i], &into, 1));
    for (int i = 0; i < 5; i++) MUST(q_block_free(q, some_blocks[i], 1));
    CHECK(get(&q->h->kept_bytes));
}
static void some_and_kept(q_queue *q) {
    kept_of_sizes(q);
    some(q);
}
static void keep_nothing(q_queue *q) { MUST(q_set_max_kept(q, 0, 1)); }
static void other_size(q_queue *q) { /* takes the place of those that are kept */
    void *into;
    MUST(q_block_new(q, 900000, &blocks[0], &into, 1));
    MUST(q_block_free(q, blocks[0], 1));
}
static void larger_message(q_queue *q) { /* in a block that has had less */
    void *into;
    MUST(q_block_new(q, 130000, &blocks[0], &into, 1));
    MUST(q_block_free(q, blocks[0], 1));
}
static void new_segment(q_queue *q) {
    void *into;
    MUST(q_block_new(q, 5 << 20, &blocks[0], &into, 1));
}
static void no_memory(q_queue *q) { /* so what is kept is given back before */
    struct rlimit small = {get(&q->h->file_bytes), RLIM_INFINITY};
    void *into;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(!setrlimit(RLIMIT_FSIZE, &small));
    SAME(q_block_new(q, 9 << 20, &blocks[0], &into, 1), Q_NO_MEMORY);
}

static void set_maxsize(q_queue *q) { MUST(q_set_maxsize(q, OTHER_MAXSIZE, 1)); }
static void unset_maxsize(q_queue *q) { MUST(q_set_maxsize(q, 0, 1)); }

typedef struct {
    const char *name;
    void (*before)(q_queue *);  /* in the parent */
    void (*prepare)(q_queue *); /* in the child, which is not killed yet */
    void (*act)(q_queue *);
    uint32_t most_missing, puts; /* messages that it may finish, that it puts */
    enum { ONE_BY_ONE, AT_ONCE } way;
    enum { NONE_LOST, ALL_LOST, SOME_LOST } lost; /* of those that are missing */
    uint32_t least_missing, maxsize;
} operation;

static const operation OPERATIONS[] = {
    {"put small", some, nothing, put_small, 0, 1, AT_ONCE, NONE_LOST, 0, 0},
    {"put bounded", some, nothing, put_small, 0, 1, AT_ONCE, NONE_LOST, 0, 9},
    {"put large", some, nothing, put_large, 0, 1, AT_ONCE, NONE_LOST, 0, 0},
    {"put large again", used_blocks, nothing, put_large, 0, 1, AT_ONCE, NONE_LOST, 0, 0},
    {"put over a border", to_border, nothing, put_big, 0, 1, AT_ONCE, NONE_LOST, 0, 0},
    {"put many", some, nothing, put_batch, 0, 20, ONE_BY_ONE, NONE_LOST, 0, 0},
    {"put many large", some, nothing, put_large_batch, 0, 20, ONE_BY_ONE, NONE_LOST, 0, 0},
    {"put many over borders", to_border, nothing, put_big_batch, 0, 20, ONE_BY_ONE, NONE_LOST, 0,
     0},
    {"take", some, nothing, take_one, 1, 0, AT_ONCE, ALL_LOST, 0, 0},
    {"take bounded", some, nothing, take_one, 1, 0, AT_ONCE, ALL_LOST, 0, 9},
    {"take all", bigs, nothing, take_all, 11, 0, AT_ONCE, ALL_LOST, 0, 0},
    {"take over a border", one_chunk_done, nothing, take_one, 1, 0, AT_ONCE, ALL_LOST, 0, 0},
    {"take with ends", ends, nothing, take_and_end, 7, 0, ONE_BY_ONE, ALL_LOST, 0, 0},
    {"done small", some, take_one, done, 1, 0, AT_ONCE, ALL_LOST, 1, 0},
    {"done large", large_first, take_one, done_and_free, 1, 0, AT_ONCE, ALL_LOST, 1, 0},
    {"give back", large_first, take_one, give_back_one, 1, 0, AT_ONCE, ALL_LOST, 0, 0},
    {"new reader", some, nothing, new_reader, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"lease", some, new_reader, lease, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"lease done", some, lease_one, lease_done_one, 1, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"next", some, lease_one, next, 1, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"next bounded", some, lease_one, next, 1, 0, AT_ONCE, NONE_LOST, 0, 9},
    {"lease done large", large_first, lease_one, lease_done_one, 1, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"lease given back", some, lease_four, lease_given_back, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"release", some, lease_four, release_all, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"take released", some, release_and_wait, take_returned_one, 1, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"requeue", one_aside, nothing, requeue, 1, 0, AT_ONCE, SOME_LOST, 0, 0},
    {"take returned", some, lease_and_return, take_returned_one, 1, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"reader close", some, lease_four, close_reader, 0, 0, ONE_BY_ONE, NONE_LOST, 0, 0},
    {"compact", bigs, lease_most, lease_done_last, 6, 0, ONE_BY_ONE, NONE_LOST, 0, 0},
    {"end", some, nothing, end, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"withdraw", ends, nothing, withdraw, 0, 0, ONE_BY_ONE, NONE_LOST, 0, 0},
    {"task_done", some, take_done, is_task_done, 1, 0, AT_ONCE, SOME_LOST, 1, 0},
    {"shutdown", some, nothing, shut_down, 6, 0, ONE_BY_ONE, SOME_LOST, 0, 0},
    {"shutdown with ends", ends, lease_one, shut_down, 7, 0, ONE_BY_ONE, SOME_LOST, 0, 0},
    {"gentle shutdown", some, nothing, shut_down_gently, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"set maxsize", some, nothing, set_maxsize, 0, 0, AT_ONCE, NONE_LOST, 0, 9},
    {"no maxsize", some, nothing, unset_maxsize, 0, 0, AT_ONCE, NONE_LOST, 0, 9},
    {"define", some, nothing, define, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"peek", some, nothing, peek, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"statistics", some, nothing, statistics, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"sweep", with_a_dead_one, nothing, sweeps, 2, 0, AT_ONCE, ALL_LOST, 2, 0},
    {"leave", some, take_and_lease, leave, 2, 0, ONE_BY_ONE, SOME_LOST, 2, 0},
    {"compact and take", bigs, lease_one, compacts, 5, 0, ONE_BY_ONE, ALL_LOST, 0, 0},
    {"trim", some_and_kept, nothing, trims, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"keep nothing", some_and_kept, nothing, keep_nothing, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"another size", some_and_kept, nothing, other_size, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"a larger message", some_and_kept, nothing, larger_message, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"new segment", some, nothing, new_segment, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"no memory", some_and_kept, nothing, no_memory, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
    {"punch", some, two_huge, punch, 0, 0, AT_ONCE, NONE_LOST, 0, 0},
};
#define NUM_OPERATIONS (sizeof OPERATIONS / sizeof *OPERATIONS)

/* -- what must hold afterwards ------------------------------------------------------------------ */

typedef struct {
    uint8_t seen[3][64];
    uint32_t next[3], number[3], ends, messages;
} drained;

static void drain(q_queue *q, drained *d, int in_order) {
    if (get(&q->h->num_delayed)) poll(NULL, 0, 5); /* those of a release are due then */
    for (;;) {
        mark m;
        q_status status = try_take(q, &m);
        if (status == Q_NOT_YET) { /* a dead one leases what is before an END */
            MUST(q_sweep(q, 0, 1));
            continue;
        }
        if (status == Q_EMPTY || status == Q_SHUT) return;
        SAME(status, Q_OK);
        if (m.producer == UINT32_MAX) {
            d->ends++;
            continue;
        }
        CHECK(m.producer < 3 && m.number < 64);
        CHECK(!d->seen[m.producer][m.number]);
        d->seen[m.producer][m.number] = 1;
        if (in_order || m.producer) {
            CHECK(m.number >= d->next[m.producer]);
            d->next[m.producer] = m.number + 1;
        }
        d->number[m.producer]++;
        d->messages++;
    }
}

static void verify(q_queue *q, const operation *o, int sweep_first) {
    drained d = {0};
    uint32_t verifying = 0;
    if (sweep_first) {
        MUST(q_sweep(q, 0, 1));
        q_counts c = counts_of(q);
        SAME(c.leased, 0);
        SAME(c.unfinished, c.put - c.done);
        drain(q, &d, 1);
        SAME(c.unfinished, d.messages);
        SAME(c.size, d.messages + d.ends);
        SAME(counts_of(q).taken - c.taken, d.messages);
    } else {
        drain(q, &d, 0);
    }
    static const uint64_t SIZES[] = {40, LARGE, BIG, BIG, BIG, BIG, 40, LARGE};
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        q_status status = try_put(q, SIZES[i], 2, verifying);
        if (q_is_shut(q)) {
            SAME(status, Q_SHUT);
            continue;
        }
        SAME(status, Q_OK);
        verifying++;
    }
    drain(q, &d, 0);
    MUST(q_sweep(q, 0, 1));
    drain(q, &d, 0);
    SAME(d.number[2], verifying);
    uint32_t missing = num_put - num_taken - d.number[0];
    CHECK(missing <= o->most_missing);
    CHECK(missing >= o->least_missing);
    CHECK(o->way == ONE_BY_ONE || missing == 0 || missing == o->most_missing);
    for (uint32_t i = 0; i < d.number[1]; i++) CHECK(d.seen[1][i]);
    CHECK(d.number[1] <= o->puts);
    CHECK(o->way == ONE_BY_ONE || d.number[1] == 0 || d.number[1] == o->puts);
    CHECK(d.ends <= (uint32_t)num_ends + (o->act == end));
    if (o->act != withdraw && o->act != shut_down && o->act != take_and_end)
        CHECK(d.ends >= (uint32_t)num_ends);
    q_counts c = counts_of(q);
    SAME(c.put, num_put + d.number[1] + verifying);
    SAME(c.done, c.put);
    SAME(c.unfinished, 0);
    SAME(c.size, 0);
    SAME(c.leased, 0);
    SAME(c.poisoned, o->before == one_aside);
    CHECK(c.maxsize == o->maxsize || (o->act == set_maxsize && c.maxsize == OTHER_MAXSIZE) ||
          (o->act == unset_maxsize && !c.maxsize));
    if (o->lost == ALL_LOST) SAME(c.lost, missing);
    if (o->lost == NONE_LOST) SAME(c.lost, 0);
    CHECK(c.lost <= missing);
    for (uint32_t i = 1; i < MAX_SLOTS; i++)
        CHECK(i == q->slot || !get(&q->h->slots[i].kind_number));
    CHECK(audit(q, 0) <= 2);
    trims(q);
    audit(q, 0);
    SAME(get(&q->h->kept_bytes), 0);
}

/* -- all of it ---------------------------------------------------------------------------------- */

static q_queue *prepare(const operation *o) {
    num_put = num_taken = 0;
    num_ends = 0;
    kill_at = 0;
    q_queue *q = new_ring(o->maxsize);
    o->before(q);
    return q;
}

/* Do it in a child that dies at the n-th passing of a point; whether it died. */
static int kill_child(q_queue *q, const operation *o, int point, int n) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        o->prepare(q);
        for (int i = 0; i < NUM_POINTS; i++) passed[i] = 0;
        kill_at = point;
        kill_after = n;
        o->act(q);
        raise(SIGKILL); /* at the latest now: with what it holds */
    }
    SAME(end_of(child), KILLED);
    return passed[point] >= n;
}

static int kill_sweeper(q_queue *q, int point, int n) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        kill_at = point;
        kill_after = n;
        sweeps(q);
        _exit(0);
    }
    int end_code = end_of(child);
    CHECK(end_code == 0 || end_code == KILLED);
    return end_code == KILLED;
}

int main(int argc, char **argv) {
    int sample = argc > 1 && !strcmp(argv[1], "sample");
    int quick = sample || (argc > 1 && !strcmp(argv[1], "quick")), each = sample ? 80 : 32;
    const char *only = argc > 2 ? argv[2] : NULL;
    passed = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(passed != MAP_FAILED);
    q_at_point = at_point;
    setbuf(stdout, NULL);
    int kills = 0, doubles = 0;
    for (size_t i = 0; i < NUM_OPERATIONS; i++) {
        const operation *o = &OPERATIONS[i];
        if (only && strcmp(o->name, only)) continue;
        int times[NUM_POINTS];
        q_queue *q = prepare(o);
        kill_child(q, o, 0, 1);
        for (int p = 0; p < NUM_POINTS; p++) times[p] = passed[p];
        snprintf(context, sizeof context, "%s, killed after it", o->name);
        verify(q, o, 1);
        q_detach(q);
        for (int p = 1; p < NUM_POINTS; p++) {
            for (int n = 1; n <= times[p]; n++) {
                if (quick && n > 1 && n < times[p]) continue;
                for (int sweep_first = 0; sweep_first < 2; sweep_first++) {
                    snprintf(context, sizeof context, "%s, killed at %d, %d times, %s", o->name, p,
                             n, sweep_first ? "swept first" : "used first");
                    alarm(60);
                    q = prepare(o);
                    CHECK(kill_child(q, o, p, n));
                    verify(q, o, sweep_first);
                    q_detach(q);
                    kills++;
                }
                if (quick ? (kills / 2) % each : o->act == punch) continue;
                for (int p2 = 1, n2 = 1; p2 < NUM_POINTS;) {
                    snprintf(context, sizeof context, "%s, killed at %d, %d times, then %d, %d",
                             o->name, p, n, p2, n2);
                    alarm(60);
                    q = prepare(o);
                    CHECK(kill_child(q, o, p, n));
                    int died = kill_sweeper(q, p2, n2);
                    if (died) {
                        verify(q, o, doubles % 2);
                        doubles++;
                        n2++;
                    }
                    q_detach(q);
                    if (!died) {
                        p2++;
                        n2 = 1;
                    }
                }
            }
        }
    }
    printf("%d kills, %d of them double\n", kills + doubles, doubles);
    return 0;
}
