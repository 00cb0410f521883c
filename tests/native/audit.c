/* Look through the queue in a file that nobody uses at the moment: each block is accounted for, and
 * what is free has gone back to the system but for what may be kept. `audit PATH` prints how many
 * slots are in use. */
#include "native.h"

int main(int argc, char **argv) {
    CHECK(argc == 2);
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    q_queue *q = NULL;
    SAME(q_attach(fd, NULL, &q), Q_OK);
    struct header *h = q->h;
    uint64_t slots = 0, most = get(&h->header_bytes) + audit(q, 0) * CHUNK_BYTES;
    for (uint32_t i = 1; i < MAX_SLOTS; i++) slots += (get(&h->slots[i].kind_number) & 0xff) != 0;
    for (unsigned class = 0; class < NUM_CLASSES; class++)
        for (uint64_t free = get(&h->free_block[class]); free; most += PAGE)
            free = get(&block_at(q, free)->next);
    most += get(&h->kept_bytes) + PAGE; /* and one of a segment that nobody has made known yet */
    CHECK(file_blocks(q) <= most);
    printf("%llu\n", (unsigned long long)slots);
    q_detach(q);
    return 0;
}
