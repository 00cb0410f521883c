/* Look through the queue in a file that nobody uses at the moment: each block is accounted for, and
 * what is free has gone back to the system but for some of each size. `audit PATH` prints how many
 * slots are in use. */
#include "native.h"

#define PAGES UINT64_C(8192) /* what stays of a block whose memory went back: its head's page */

int main(int argc, char **argv) {
    CHECK(argc == 2);
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    q_queue *q = NULL;
    SAME(q_attach(fd, NULL, &q), Q_OK);
    struct header *h = q->h;
    uint64_t slots = 0, most = get(&h->segments[0].size) + audit(q, 0) * CHUNK_BYTES;
    for (uint32_t i = 1; i < MAX_SLOTS; i++) slots += (get(&h->slots[i].kind_number) & 0xff) != 0;
    for (uint64_t i = 1; i < get(&h->num_segments); i++)
        most += get(&h->segments[i].size) - get(&h->segments[i].used); /* reserved, not used yet */
    for (unsigned class = 0; class < NUM_CLASSES; class++) {
        uint64_t whole = 0, bytes = class_bytes(class);
        for (uint64_t free = get(&h->warm_block[class]); free; whole += bytes) {
            struct block *b = block_at(q, free);
            CHECK(!get(&b->punched));
            free = get(&b->next);
        }
        for (uint64_t free = get(&h->cold_block[class]); free; most += PAGES) {
            struct block *b = block_at(q, free);
            CHECK(get(&b->punched));
            free = get(&b->next);
        }
        CHECK(whole == get(&h->num_warm[class]) * bytes);
        CHECK(whole <= KEPT_FREE_BYTES);
        most += whole;
    }
    CHECK(file_blocks(q) <= most);
    printf("%llu\n", (unsigned long long)slots);
    q_detach(q);
    return 0;
}
