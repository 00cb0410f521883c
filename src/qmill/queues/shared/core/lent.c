/* Lent blocks: the memory of large messages that objects of this process use, and forks.
 *
 * A forked child must find all its memory as it was at the fork, also that of arrays which came from
 * a queue. So just before a fork the pages of each lent block become private to this process:
 *
 *   the file      [ header | data ....... ]      stays this process's, and is not read
 *                     ^ mapped, until a fork
 *   an object  ──> [ pages of the file's ]
 *                     v from then on
 *                  [ pages of the process's own ]  which a child gets as it gets all others
 *
 * Before the block is free again, its place shows the file's pages as before. The copy of its header
 * does no harm: only the owner of a block changes its header. Blocks share no pages.
 *
 * A child does not own the blocks. It maps the segments anew, elsewhere, for messages that it takes.
 */
#include "core.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* since Linux 5.14 */
#endif
#define STEP (UINT64_C(16) << 20) /* so much is mapped twice for a moment */

/* Held at forks, too, so that a child gets a complete list. */
static pthread_mutex_t lending = PTHREAD_MUTEX_INITIALIZER;
static q_lent *all_lent;

/* Replace the mapping of a block by another one of the same pages, shared or private: in steps, each
 * of which maps the pages elsewhere and moves them into place. A step that fails changes nothing. */
static int remap(const q_lent *lent, int flags) {
    const q_queue *q = lent->q;
    uint64_t number = lent->block >> SEGMENT_SHIFT;
    uint64_t offset = get(&q->h->segments[number].offset) + (lent->block & OFFSET_MASK);
    struct stat file;
    if (!has_file(q) || fstat(q->fd, &file) || offset % PAGE ||
        lent->bytes > (uint64_t)file.st_size || offset > (uint64_t)file.st_size - lent->bytes)
        return -1;
    for (uint64_t done = 0; done < lent->bytes; done += STEP) {
        uint64_t bytes = lent->bytes - done < STEP ? lent->bytes - done : STEP;
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, q->fd, (off_t)(offset + done));
        if (p == MAP_FAILED) return -1;
        if (mremap(p, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, lent->start + done) ==
            MAP_FAILED) {
            munmap(p, bytes);
            return -1;
        }
    }
    return 0;
}

/* Have the kernel copy the pages of a private mapping, whatever other threads write meanwhile. */
static void copy_pages(const q_lent *lent) {
    if (!madvise(lent->start, lent->bytes, MADV_POPULATE_WRITE)) return;
    for (uint64_t i = 0; i < lent->bytes; i += PAGE) {
        uint64_t *word = (uint64_t *)(lent->start + i), value = 0;
        /* It is a write even if another thread has written since: relaxed, it orders nothing. */
        if (!__atomic_compare_exchange_n(word, &value, 0, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            __atomic_compare_exchange_n(word, &value, value, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
}

static void before_fork(void) {
    pthread_mutex_lock(&lending);
    for (q_lent *lent = all_lent; lent; lent = lent->next) {
        if (lent->pages == LENT_PRIVATE) continue;
        lent->pages = LENT_PARTLY_PRIVATE;
        if (remap(lent, MAP_PRIVATE)) continue;
        copy_pages(lent);
        lent->pages = LENT_PRIVATE;
    }
}

static void after_fork_in_parent(void) { pthread_mutex_unlock(&lending); }

/* The file cannot be mapped any more (the program has closed its descriptor): copy the memory, which
 * the parent may be writing to. A child without its memory must not go on. */
static void copy_late(const q_lent *lent) {
    static const char why[] = "qmill: no memory for a copy of a received array in a forked child\n";
    void *copy = mmap(NULL, lent->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy != MAP_FAILED) {
        memcpy(copy, lent->start, lent->bytes);
        if (mremap(copy, lent->bytes, lent->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, lent->start) !=
            MAP_FAILED)
            return;
    }
    (void)!write(STDERR_FILENO, why, sizeof why - 1);
    abort();
}

static void after_fork_in_child(void) {
    for (q_lent *lent = all_lent; lent; lent = lent->next) {
        unsigned number = (unsigned)(lent->block >> SEGMENT_SHIFT);
        if (lent->pages != LENT_PRIVATE) copy_late(lent);
        const uint8_t *base = atomic_load(&lent->q->base[number]);
        if (base && lent->start >= base && lent->start < base + get(&lent->q->bytes[number]))
            atomic_store(&lent->q->base[number], NULL); /* `map_segment` maps it elsewhere */
    }
    all_lent = NULL;
    pthread_mutex_unlock(&lending);
}

static pthread_once_t forks_once = PTHREAD_ONCE_INIT;

static void watch_forks(void) {
    if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child)) abort();
}

void q_lend(q_queue *q, const q_item *item, q_lent *lent) {
    pthread_once(&forks_once, watch_forks);
    lent->q = q;
    lent->block = item->block;
    lent->start = (uint8_t *)(uintptr_t)item->data - sizeof(struct block);
    lent->bytes = (item->size + sizeof(struct block) + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    lent->pages = LENT_SHARED;
    lent->generation = fork_generation();
    lent->previous = NULL;
    pthread_mutex_lock(&lending);
    lent->next = all_lent;
    if (all_lent) all_lent->previous = lent;
    all_lent = lent;
    pthread_mutex_unlock(&lending);
}

void q_lent_back(q_lent *lent) {
    q_queue *q = lent->q;
    if (lent->generation != fork_generation()) { /* a child's copy, where nothing else is */
        munmap(lent->start, lent->bytes);
        return;
    }
    pthread_mutex_lock(&lending);
    int is_shared = lent->pages == LENT_SHARED || !remap(lent, MAP_SHARED);
    if (lent->next) lent->next->previous = lent->previous;
    if (lent->previous) lent->previous->next = lent->next;
    if (all_lent == lent) all_lent = lent->next;
    pthread_mutex_unlock(&lending);
    if (!is_shared) set(&q->is_in_debt, 1); /* the block stays owned until this process ends */
    for (int i = 0; is_shared && i < 10; i++)
        if (q_block_free(q, lent->block, 1) != Q_BUSY) break;
}
