/* Look through the queue in a file that nobody uses at the moment: each block has to be accounted
 * for. `audit PATH`; it prints the slots in use, the chunks, and how many bytes the file takes. */
#include "native.h"

int main(int argc, char **argv) {
    CHECK(argc == 2);
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    q_queue *q = NULL;
    SAME(q_attach(fd, NULL, &q), Q_OK);
    uint64_t slots = 0, chunks = audit(q, 0);
    for (uint32_t i = 1; i < MAX_SLOTS; i++) slots += (get(&q->h->slots[i].kind_pid) & 0xff) != 0;
    printf("%llu %llu %llu\n", (unsigned long long)slots, (unsigned long long)chunks,
           (unsigned long long)file_blocks(q));
    q_detach(q);
    return 0;
}
