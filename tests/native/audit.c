/* Look through the queue in a file that nobody uses at the moment: each block is accounted for, and
 * each page. `audit PATH` prints how many
 * slots are in use. */
#include "native.h"

int main(int argc, char **argv) {
    CHECK(argc == 2);
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    q_queue *q = NULL;
    SAME(q_attach(fd, NULL, &q), Q_OK);
    struct header *h = q->h;
    uint64_t slots = 0;
    audit(q, 0);
    for (uint32_t i = 1; i < get(&h->num_slots); i++) slots += (get(&h->slots[i].kind_number) & 0xff) != 0;
    printf("%llu\n", (unsigned long long)slots);
    q_detach(q);
    return 0;
}
