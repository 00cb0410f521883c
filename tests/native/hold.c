/* Stop (SIGSTOP) in the middle of an operation on the queue in a file, while one of its locks is
 * held: `hold PATH put|get|allocate`. When it may go on, it finishes the operation. */
#include "native.h"

static const struct lock *held;

static void stop_if_held(int number) {
    (void)number;
    if ((pid_t)held->mutex.__data.__owner != getpid()) return;
    q_at_point = NULL;
    raise(SIGSTOP);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    q_queue *q = NULL;
    SAME(q_attach(fd, NULL, &q), Q_OK);
    uint64_t block;
    uint32_t reader;
    void *data;
    MUST(q_sweep(q, 0, 1));
    q_at_point = stop_if_held;
    if (!strcmp(argv[2], "put")) {
        held = &q->h->put;
        MUST(q_put(q, "N", 1, 1)); /* a None */
    } else if (!strcmp(argv[2], "get")) {
        held = &q->h->get;
        MUST(q_reader_new(q, &reader, 1));
    } else {
        held = &q->h->allocate;
        MUST(q_block_new(q, 100000, &block, &data, 1));
        MUST(q_block_free(q, block, 1));
    }
    CHECK(!q_at_point);
    MUST(q_leave(q, 1, 1));
    q_detach(q);
    return 0;
}
