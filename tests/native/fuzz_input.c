/* A file damaged as standard input says, for a fuzzer that is guided by coverage: pieces of 16
 * bytes, each {where: 4 bytes, which part: 4 bytes, the new value: 8 bytes}. */
#define main loop_main
#include "test_fuzz.c"
#undef main

int main(void) {
    struct {
        uint32_t where, part;
        uint64_t value;
    } change;
    struct rlimit file = {UINT64_C(1) << 26, UINT64_C(1) << 26};
    CHECK(!setrlimit(RLIMIT_FSIZE, &file));
    signal(SIGXFSZ, SIG_IGN);
    state = 1; /* the same queue each time */
    q_queue *q = busy_ring();
    for (int i = 0; i < 4 && read(0, &change, sizeof change) == sizeof change; i++) {
        uint64_t part = change.part % 3, *words = (uint64_t *)q->h, number;
        number = offsetof(struct header, segments[8]) / 8; /* locks, counts, events, segments */
        if (part == 1) {
            words = (uint64_t *)q->h->slots;
            number = sizeof(struct slot[8]) / 8;
        } else if (part == 2) {
            words = at(q, UINT64_C(1) << SEGMENT_SHIFT, CHUNK_BYTES);
            number = CHUNK_BYTES / 8;
        }
        words[change.where % number] = change.value;
    }
    call_everything(q_fd(q));
    return 0;
}
