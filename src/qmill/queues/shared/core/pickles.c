/* Notes which pickles of a queue have been loaded, so that the process that made a pickle knows how
 * long to keep the queue for it. A pickle has a number. The process that loads it stores the number in
 * `loaded`, once it has the queue itself. There are places for the last PICKLES_KNOWN pickles. */
#include "core.h"

uint64_t q_pickle_new(q_queue *q) {
    /* Relaxed: the number has only to be another one each time. */
    return atomic_fetch_add_explicit(&q->h->num_pickles, 1, memory_order_relaxed) + 1;
}

void q_pickle_loaded(q_queue *q, uint64_t pickle) {
    set(&q->h->loaded[pickle % PICKLES_KNOWN], pickle); /* release: pairs with q_pickle_is_loaded */
}

int q_pickle_is_loaded(const q_queue *q, uint64_t pickle) {
    return get(&q->h->loaded[pickle % PICKLES_KNOWN]) == pickle;
}
