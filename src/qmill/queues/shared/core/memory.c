/* The file's memory: segments, which are mapped when first needed; blocks in them, a buddy system; and
 * definitions, which are blocks that are never freed.
 *
 * Source of the blocks: K. C. Knowlton, A fast storage allocator, CACM 8 (1965), the buddy system. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FALLOCATE_STEP (UINT64_C(4) << 20) /* larger ones may restart for ever under signals */
#define TRIM_STEP 64                       /* blocks, before others get the lock */

/* -- segments -----------------------------------------------------------------------------------
 *
 * Address space and file offsets are cheap; memory is reserved only for the bytes of messages. Each
 * segment is at least a quarter of the file's size, so there are never many. The free blocks of a
 * segment can be used for messages of any size.
 */

static uint64_t file_offset(const q_queue *q, uint64_t address) {
    return get(&q->h->segments[address >> SEGMENT_SHIFT].offset) + (address & OFFSET_MASK);
}

static void *map(int fd, uint64_t offset, uint64_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    if (p == MAP_FAILED) {
        refuse(Q_MAPPING, errno, size);
        return NULL;
    }
    madvise(p, size, MADV_DONTDUMP); /* a core dump would fill the pages that have no memory */
    return p;
}

/* Without a lock, which a forked child might find held: of two threads one maps it in vain. */
static int use_mapping(q_queue *q, unsigned number, void *p, uint64_t size) {
    uint64_t unknown = 0;
    uint8_t *nothing = NULL;
    /* The first one's size counts, should the file change it meanwhile. */
    int is_first = atomic_compare_exchange_strong(&q->bytes[number], &unknown, size);
    if ((!is_first && unknown != size) ||
        !atomic_compare_exchange_strong(&q->base[number], &nothing, p)) /* release: with `at` */
        munmap(p, size);
    return atomic_load(&q->base[number]) != NULL;
}

int map_segment(q_queue *q, unsigned number) {
    struct stat file;
    if (number >= get(&q->h->num_segments)) return 0;
    uint64_t offset = get(&q->h->segments[number].offset);
    uint64_t size = get(&q->h->segments[number].size);
    if (!size || !has_file(q) || fstat(q->fd, &file) ||
        size > (uint64_t)file.st_size || offset > (uint64_t)file.st_size - size || offset % PAGE)
        return 0;
    void *p = map(q->fd, offset, size);
    return p ? use_mapping(q, number, p, size) : -1;
}

q_status reserve(int fd, uint64_t offset, uint64_t bytes) {
    if (!has_room(bytes)) return Q_NO_MEMORY;
    while (bytes) {
        uint64_t step = bytes < FALLOCATE_STEP ? bytes : FALLOCATE_STEP;
        int error = posix_fallocate(fd, (off_t)offset, (off_t)step); /* on NFS, by writing */
        if (error == EINTR) continue;
        if (error) {
            refuse(Q_FILE, error, bytes);
            return Q_NO_MEMORY;
        }
        offset += step;
        bytes -= step;
    }
    return Q_OK;
}

/* Reserve memory for an entry of a table, a page at a time: when it is the first one in its page. */
q_status reserve_entry(const q_queue *q, const void *entry) {
    uint64_t offset = here(q, entry);
    if (offset % PAGE && offset % PAGE != CACHE_LINE) return Q_OK; /* number 0 is of no table */
    if (!has_file(q)) return Q_SYSTEM;
    return reserve(q->fd, offset & ~(uint64_t)(PAGE - 1), PAGE);
}

/* Under the allocate lock: a segment that is one free block. No block of its class is free. */
static q_status new_segment(q_queue *q, unsigned class) {
    struct header *h = q->h;
    uint64_t number = get(&h->num_segments), offset = get(&h->file_bytes);
    uint64_t size = class_bytes(class);
    struct stat file;
    if (number >= MAX_SEGMENTS) {
        refuse(Q_SEGMENTS, 0, size);
        return Q_NO_MEMORY;
    }
    if (!has_file(q) || fstat(q->fd, &file)) return Q_SYSTEM;
    if (offset % PAGE || offset > INT64_MAX - size) return Q_CORRUPT;
    if (reserve_entry(q, &h->segments[number]) != Q_OK) return Q_NO_MEMORY;
    if (offset + size > (uint64_t)file.st_size && ftruncate(q->fd, (off_t)(offset + size))) {
        refuse(Q_FILE, errno, size);
        return Q_NO_MEMORY;
    }
    void *p = reserve(q->fd, offset, PAGE) == Q_OK ? map(q->fd, offset, size) : NULL;
    if (!p) { /* a try that fails leaves nothing; but all that was there may be mapped */
        (void)!ftruncate(q->fd, file.st_size);
        return Q_NO_MEMORY;
    }
    struct block *b = p;
    memset(b, 0, sizeof *b);
    set(&b->magic_class, MAGIC ^ class);
    set(&b->state, BLOCK_FREE);
    POINT(15);
    struct segment *s = &h->segments[number];
    struct change c;
    begin(&c, &h->allocate);
    PLAN(&c, s->offset, offset);
    PLAN(&c, s->size, size);
    PLAN(&c, h->file_bytes, offset + size);
    PLAN(&c, h->free_block[class], number << SEGMENT_SHIFT);
    PLAN(&c, h->num_segments, number + 1);
    commit(&c);
    return use_mapping(q, (unsigned)number, p, size) ? Q_OK : Q_NO_MEMORY;
}

/* Under the allocate lock: a segment in which a block of this class is free. */
static q_status grow(q_queue *q, unsigned class) {
    unsigned larger = class;
    while (larger + 1 < NUM_CLASSES && class_bytes(larger + 1) <= get(&q->h->file_bytes) / 4)
        larger++;
    for (;; larger--) { /* as large as this process may map */
        q_status status = new_segment(q, larger);
        if (status != Q_NO_MEMORY || larger == class) return status;
        q_refused();
    }
}

/* -- blocks, under the allocate lock ------------------------------------------------------------- */

#define PLAN_OF(change, address, b, member, value)                                                 \
    plan(change, (address) + offsetof(struct block, member), &(b)->member, value)

static uint64_t owned(const q_queue *q) { return BLOCK_OWNED | (uint64_t)q->slot << 32; }

/* The block at an address in a list of blocks of this class and state; NULL for 0 or another block. */
static struct block *listed(q_queue *q, uint64_t address, unsigned class, unsigned what) {
    struct block *b = address ? block_at(q, address) : NULL;
    return b && class_of(b) == class && get(&b->state) == what ? b : NULL;
}

/* Plan to take a free block out of its list; return whether the list is undamaged. */
static int plan_unlink(q_queue *q, struct change *c, uint64_t address, struct block *b) {
    unsigned class = class_of(b);
    uint64_t next = get(&b->next), previous = get(&b->previous);
    word *list = &q->h->free_block[class];
    struct block *after = listed(q, next, class, BLOCK_FREE);
    struct block *before = listed(q, previous, class, BLOCK_FREE);
    if ((next && (!after || get(&after->previous) != address)) ||
        (previous ? !before || get(&before->next) != address : get(list) != address))
        return 0;
    if (after) PLAN_OF(c, next, after, previous, previous);
    if (before)
        PLAN_OF(c, previous, before, next, next);
    else
        plan(c, here(q, list), list, next);
    return 1;
}

/* Plan to make a block free, and the first of its list. */
static void plan_free(q_queue *q, struct change *c, uint64_t address, struct block *b) {
    unsigned class = class_of(b);
    word *list = &q->h->free_block[class];
    uint64_t first = get(list);
    struct block *after = listed(q, first, class, BLOCK_FREE);
    PLAN_OF(c, address, b, next, first);
    PLAN_OF(c, address, b, previous, 0);
    PLAN_OF(c, address, b, state, BLOCK_FREE);
    PLAN_OF(c, address, b, loose, 0);
    if (after) PLAN_OF(c, first, after, previous, address);
    plan(c, here(q, list), list, address);
}

static void punch(q_queue *q, uint64_t address, uint64_t begin, uint64_t end) {
    uint64_t start = file_offset(q, address);
    /* Where a file system cannot do this, it keeps the memory, and it is used again as well. */
    if (begin < end && has_file(q))
        (void)!fallocate(q->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(start + begin),
                         (off_t)(end - begin));
}

/* Give memory behind the reserved bytes of a block back to the system, if there may be some. */
void tidy(q_queue *q, uint64_t address, struct block *b) {
    if (!get(&b->loose)) return;
    uint64_t begin = (get(&b->reserved) + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    punch(q, address, begin ? begin : PAGE, class_bytes(class_of(b)));
    set(&b->loose, 0);
}

/* Split the first free block of a class into two. */
static q_status split(q_queue *q, unsigned class) {
    struct header *h = q->h;
    uint64_t first = get(&h->free_block[class]), half = class_bytes(class - 1), second = first + half;
    struct block *b = listed(q, first, class, BLOCK_FREE), *other = at(q, second, half);
    struct change c;
    begin(&c, &h->allocate);
    if (!b || !other || !plan_unlink(q, &c, first, b)) return Q_CORRUPT;
    if (!has_file(q)) return Q_SYSTEM;
    set(&b->loose, 1);
    if (reserve(q->fd, file_offset(q, second), PAGE) != Q_OK) {
        tidy(q, first, b);
        return Q_NO_MEMORY;
    }
    memset(other, 0, sizeof *other);
    set(&other->magic_class, MAGIC ^ (class - 1));
    set(&other->state, BLOCK_FREE);
    set(&other->previous, first);
    POINT(16);
    PLAN_OF(&c, first, b, magic_class, MAGIC ^ (class - 1));
    PLAN_OF(&c, first, b, next, second);
    PLAN_OF(&c, first, b, previous, 0);
    PLAN_OF(&c, first, b, loose, 0);
    PLAN(&c, h->free_block[class - 1], first); /* there was none, or this would not be split */
    commit(&c);
    return Q_OK;
}

/* Make sure that a block of this class is free. */
static q_status make_free(q_queue *q, unsigned class) {
    unsigned larger = class;
    while (larger < NUM_CLASSES && !get(&q->h->free_block[larger])) larger++;
    if (larger == NUM_CLASSES) {
        q_status status = grow(q, class);
        if (status != Q_OK) return status;
        for (larger = class; larger < NUM_CLASSES - 1 && !get(&q->h->free_block[larger]);) larger++;
    }
    for (; larger > class; larger--) {
        q_status status = split(q, larger);
        if (status != Q_OK) return status;
    }
    return Q_OK;
}

/* Take the first kept block of a class out of its list; NULL if there is none. */
static struct block *take_kept(q_queue *q, unsigned class, uint64_t *address) {
    struct header *h = q->h;
    *address = get(&h->kept_block[class]);
    struct block *b = listed(q, *address, class, BLOCK_KEPT);
    if (!b) return NULL;
    struct change c;
    begin(&c, &h->allocate);
    PLAN(&c, h->kept_block[class], get(&b->next));
    PLAN(&c, h->kept_bytes, get(&h->kept_bytes) - get(&b->reserved));
    PLAN_OF(&c, *address, b, state, owned(q));
    commit(&c);
    return b;
}

static q_status take_free(q_queue *q, unsigned class, uint64_t *address, struct block **found) {
    struct header *h = q->h;
    q_status status = make_free(q, class);
    if (status != Q_OK) return status;
    *address = get(&h->free_block[class]);
    struct block *b = *found = listed(q, *address, class, BLOCK_FREE);
    struct change c;
    begin(&c, &h->allocate);
    if (!b || !plan_unlink(q, &c, *address, b)) return Q_CORRUPT;
    PLAN_OF(&c, *address, b, reserved, 0);
    PLAN_OF(&c, *address, b, fresh, 1);
    PLAN_OF(&c, *address, b, state, owned(q));
    commit(&c);
    return Q_OK;
}

/* The buddy of a block, if it is free and of the same size; else NULL. */
static struct block *other_half(q_queue *q, uint64_t address, const struct block *b,
                                uint64_t *where) {
    unsigned class = class_of(b);
    *where = address ^ class_bytes(class);
    struct block *other = class + 1 < NUM_CLASSES ? listed(q, *where, class, BLOCK_FREE) : NULL;
    return other && at(q, address & *where, class_bytes(class + 1)) ? other : NULL;
}

/* Give a block's memory back, and merge the block with free buddies; return the address of the result. */
static uint64_t free_owned(q_queue *q, uint64_t address, struct block *b) {
    struct header *h = q->h;
    struct change c;
    uint64_t where;
    struct block *other;
    set(&b->loose, 1);
    set(&b->reserved, 0);
    POINT(13);
    tidy(q, address, b);
    while ((other = other_half(q, address, b, &where))) {
        uint64_t first = address & where, second = address | where;
        struct block *whole = first == address ? b : other;
        begin(&c, &h->allocate);
        if (!plan_unlink(q, &c, where, other)) break;
        PLAN_OF(&c, first, whole, magic_class, MAGIC ^ (class_of(b) + 1));
        PLAN_OF(&c, first, whole, state, owned(q));
        PLAN_OF(&c, first, whole, loose, 1);
        commit(&c);
        punch(q, second, 0, PAGE);
        POINT(14);
        set(&whole->loose, 0);
        address = first;
        b = whole;
    }
    begin(&c, &h->allocate);
    plan_free(q, &c, address, b);
    commit(&c);
    return address;
}

/* Free the first kept block of a class, if there is one. */
static int drop_kept(q_queue *q, unsigned class) {
    uint64_t address;
    struct block *b = take_kept(q, class, &address);
    if (b) free_owned(q, address, b);
    return b != NULL;
}

/* Have those that are kept take no more than so many bytes, at the cost of other classes than one, and
 * of so many blocks at most; whether they do. */
static int keep_at_most(q_queue *q, uint64_t bytes, unsigned but, int blocks) {
    struct header *h = q->h;
    if (likely(get(&h->kept_bytes) <= bytes)) return 1;
    for (unsigned class = NUM_CLASSES; class-- > 0;)
        while (class != but && get(&h->kept_bytes) > bytes && blocks-- > 0 && drop_kept(q, class))
            ;
    return get(&h->kept_bytes) <= bytes;
}

/* How much may be kept when a block of so many bytes is. A stream of large messages has three of them
 * in turn: one is written, one waits, one is read. */
static uint64_t most_kept(const q_queue *q, uint64_t bytes) {
    uint64_t told = get(&q->h->max_kept_bytes);
    if (told != Q_CHOSEN) return told;
    if (bytes <= KEPT_BYTES / 3) return KEPT_BYTES;
    return bytes <= KEPT_BYTES_MAX / 3 ? 3 * bytes : KEPT_BYTES_MAX;
}

/* Free a block that this process owns, or a dead one; returns where the free block begins. */
uint64_t release_locked(q_queue *q, uint64_t address, struct block *b) {
    struct header *h = q->h;
    unsigned class = class_of(b);
    uint64_t bytes = get(&b->reserved), most = most_kept(q, bytes);
    int is_kept = bytes && bytes <= most;
    tidy(q, address, b);
    if (!keep_at_most(q, is_kept ? most - bytes : most, is_kept ? class : NUM_CLASSES, TRIM_STEP) ||
        !is_kept)
        return free_owned(q, address, b);
    struct change c;
    begin(&c, &h->allocate);
    PLAN_OF(&c, address, b, next, get(&h->kept_block[class]));
    PLAN_OF(&c, address, b, state, BLOCK_KEPT);
    PLAN(&c, h->kept_bytes, get(&h->kept_bytes) + bytes);
    PLAN(&c, h->kept_block[class], address);
    commit(&c);
    return address;
}

/* -- blocks -------------------------------------------------------------------------------------- */

/* Have memory for so many bytes of a block that is ours: without the lock, as it may take long. */
static q_status reserve_block(q_queue *q, uint64_t address, struct block *b, uint64_t bytes) {
    uint64_t had = get(&b->reserved);
    if (likely(bytes <= had)) return Q_OK;
    if (!has_file(q)) return Q_SYSTEM;
    set(&b->loose, 1);
    POINT(12);
    q_status status = reserve(q->fd, file_offset(q, address) + had, bytes - had);
    if (status != Q_OK) return status;
    set(&b->reserved, bytes);
    set(&b->loose, 0);
    return Q_OK;
}

static q_status try_allocate(q_queue *q, unsigned class, uint64_t bytes, uint64_t *address,
                             int patient) {
    q_status status = take_lock(q, &q->h->allocate, patient);
    if (status != Q_OK) return status;
    POINT(10);
    struct block *b = take_kept(q, class, address);
    if (!b) status = take_free(q, class, address, &b);
    unlock(&q->h->allocate);
    if (status != Q_OK) return status;
    status = reserve_block(q, *address, b, bytes);
    if (status != Q_OK) release_surely(q, *address);
    return status;
}

/* Keep no more than so many bytes; *given counts on. */
static q_status keep_no_more(q_queue *q, uint64_t bytes, uint64_t *given) {
    for (int is_enough = 0; !is_enough;) {
        q_status status = take_lock(q, &q->h->allocate, 1);
        if (status != Q_OK) return status;
        uint64_t before = get(&q->h->kept_bytes);
        is_enough = keep_at_most(q, bytes, NUM_CLASSES, TRIM_STEP);
        uint64_t after = get(&q->h->kept_bytes);
        unlock(&q->h->allocate);
        if (after >= before) break; /* the lists are damaged, or this is enough */
        *given += before - after;
    }
    return Q_OK;
}

q_status allocate(q_queue *q, uint64_t bytes, uint64_t *address, int patient) {
    uint64_t needed = (bytes + sizeof(struct block) + PAGE - 1) & ~(uint64_t)(PAGE - 1), given = 0;
    unsigned class = 0;
    while (class < NUM_CLASSES && class_bytes(class) < needed) class++;
    if (bytes > OFFSET_MASK || class == NUM_CLASSES) {
        refuse(Q_SEGMENTS, 0, bytes);
        return Q_NO_MEMORY;
    }
    q_status status = try_allocate(q, class, needed, address, patient);
    if (status != Q_NO_MEMORY || keep_no_more(q, 0, &given) != Q_OK || !given) return status;
    q_refused();
    return try_allocate(q, class, needed, address, patient);
}

q_status release(q_queue *q, uint64_t address, int patient) {
    struct block *b = block_at(q, address);
    if (!b) return Q_CORRUPT;
    q_status status = take_lock(q, &q->h->allocate, patient);
    if (status != Q_OK) return status;
    POINT(11);
    if (get(&b->state) == owned(q)) release_locked(q, address, b);
    unlock(&q->h->allocate);
    return Q_OK;
}

q_status q_trim(q_queue *q, uint64_t *given, int patient) {
    *given = 0;
    TAKE_PART(q, patient);
    q_status status = take_lock(q, &q->h->get, patient);
    if (status != Q_OK) return status;
    reap(q);
    compact(q); /* a message that is held or set aside keeps only its own chunk */
    unlock(&q->h->get);
    return keep_no_more(q, 0, given);
}

uint64_t q_max_kept(const q_queue *q) { return get(&q->h->max_kept_bytes); }

q_status q_set_max_kept(q_queue *q, uint64_t bytes, int patient) {
    uint64_t given = 0;
    TAKE_PART(q, patient);
    set(&q->h->max_kept_bytes, bytes);
    return keep_no_more(q, most_kept(q, 0), &given);
}

/* Release a block, also if the lock is held for long: then the sweep after this process frees it. */
void release_surely(q_queue *q, uint64_t address) {
    for (int i = 0; i < 10; i++)
        if (release(q, address, 1) != Q_BUSY) return;
    set(&q->owes, 1);
}

uint64_t q_inline_max(void) { return INLINE_MAX; }

q_status q_block_new(q_queue *q, uint64_t size, uint64_t *block, void **data, int patient) {
    TAKE_PART(q, patient);
    q_status status = allocate(q, size, block, patient);
    if (status != Q_OK) return status;
    *data = at(q, *block + sizeof(struct block), size);
    return *data ? Q_OK : Q_NO_MEMORY;
}

void q_block_write(q_queue *q, uint64_t block, uint64_t offset, const void *data, uint64_t size) {
    const struct block *b = block_at(q, block);
    uint8_t *into = at(q, block + sizeof *b + offset, size);
    if (!b || !into) return;
    if (get(&b->fresh) && size >= CHUNK_BYTES && has_file(q)) {
        /* The system fills new pages at once, and does not clear them before. */
        uint64_t begin = file_offset(q, block) + sizeof *b;
        while (size) {
            ssize_t written = pwrite(q->fd, data, size, (off_t)(begin + offset));
            if (written < 0 && errno == EINTR) continue;
            if (written <= 0) break;
            data = (const uint8_t *)data + written;
            into += written;
            offset += (uint64_t)written;
            size -= (uint64_t)written;
        }
    }
    if (size) memcpy(into, data, size);
}

q_status q_block_free(q_queue *q, uint64_t block, int patient) {
    if (q->generation != fork_generation()) return Q_OK; /* it is the parent's */
    q_status status = release(q, block, patient);
    if (status != Q_OK) set(&q->owes, 1);
    return status;
}

/* -- definitions -------------------------------------------------------------------------------- */

q_status q_define(q_queue *q, const void *key, uint32_t key_size, const void *data, uint64_t size,
                  int patient) {
    const void *known;
    uint64_t known_size, block;
    struct definition *d;
    if (q_fetch(q, key, key_size, &known, &known_size) == Q_OK) return Q_OK;
    q_status status = q_block_new(q, sizeof *d + key_size + size, &block, (void **)&d, patient);
    if (status != Q_OK) return status;
    d->key_size = key_size;
    d->size = size;
    memcpy(d + 1, key, key_size);
    memcpy((uint8_t *)(d + 1) + key_size, data, size);
    status = take_lock(q, &q->h->put, 1);
    if (status != Q_OK) {
        release_surely(q, block);
        return status;
    }
    struct block *b = block_at(q, block);
    d->next = get(&q->h->definitions);
    struct change c;
    begin(&c, &q->h->put);
    plan(&c, block + offsetof(struct block, state), &b->state, BLOCK_DEFINITION);
    PLAN(&c, q->h->definitions, block);
    commit(&c);
    unlock(&q->h->put);
    return Q_OK;
}

q_status q_fetch(q_queue *q, const void *key, uint32_t key_size, const void **data,
                 uint64_t *size) {
    uint64_t block = get(&q->h->definitions);
    for (int i = 0; block && i < 1000000; i++) {
        const struct definition *d = at(q, block + sizeof(struct block), sizeof *d);
        if (!d || block % CACHE_LINE || !at(q, block + sizeof(struct block), sizeof *d + d->key_size)) return Q_CORRUPT;
        const uint8_t *body = (const uint8_t *)(d + 1);
        if (d->key_size == key_size && !memcmp(body, key, key_size)) {
            if (d->size > OFFSET_MASK ||
                !at(q, block + sizeof(struct block), sizeof *d + d->key_size + d->size))
                return Q_CORRUPT;
            *data = body + key_size;
            *size = d->size;
            return Q_OK;
        }
        block = d->next;
    }
    return Q_EMPTY;
}
