/* The file's memory: segments, which are mapped when first needed; blocks in them, by size; and the
 * definitions, which are blocks that stay. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SMALL_SEGMENT_MAX (UINT64_C(64) << 20)
#define OWN_SEGMENT_BYTES (UINT64_C(8) << 20) /* blocks of so much have a segment of their own */
#define FALLOCATE_STEP (UINT64_C(4) << 20)    /* larger ones may restart for ever under signals */

static _Thread_local int has_no_room; /* a mapping was refused */

int q_had_no_room(void) {
    int had = has_no_room;
    has_no_room = 0;
    return had;
}

/* Without a lock, which a forked child might find held: of two threads one maps it in vain. */
int map_segment(q_queue *q, unsigned number) {
    struct stat file;
    if (number >= get(&q->h->num_segments)) return 0;
    uint64_t offset = get(&q->h->segments[number].offset);
    uint64_t size = get(&q->h->segments[number].size);
    if (!size || !has_file(q) || fstat(q->fd, &file) ||
        size > (uint64_t)file.st_size || offset > (uint64_t)file.st_size - size || offset % 4096)
        return 0;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, q->fd, (off_t)offset);
    if (p == MAP_FAILED) {
        has_no_room = 1;
        return -1;
    }
    uint64_t unknown = 0;
    uint8_t *nothing = NULL;
    /* The first one's size counts, should the file change it meanwhile. */
    int is_first = atomic_compare_exchange_strong(&q->bytes[number], &unknown, size);
    if ((!is_first && unknown != size) ||
        !atomic_compare_exchange_strong(&q->base[number], &nothing, p)) /* release: with `at` */
        munmap(p, size);
    return atomic_load(&q->base[number]) != NULL;
}

/* The first is that of chunks. The others have room for a power of two and what goes before it. */
uint64_t class_bytes(unsigned number) {
    uint64_t bytes = CHUNK_BYTES << (number / 2);
    return (number % 2 ? bytes + bytes / 2 : bytes) + (number ? 4096 : 0);
}

static unsigned class_of(uint64_t bytes) {
    unsigned number = 0;
    while (number < NUM_CLASSES && class_bytes(number) < bytes) number++;
    return number;
}

q_status reserve(int fd, uint64_t offset, uint64_t bytes) {
    while (bytes) {
        uint64_t step = bytes < FALLOCATE_STEP ? bytes : FALLOCATE_STEP;
        int error = posix_fallocate(fd, (off_t)offset, (off_t)step); /* on NFS, by writing */
        if (error == EINTR) continue;
        if (error) return Q_NO_MEMORY;
        offset += step;
        bytes -= step;
    }
    return Q_OK;
}

/* Reserve memory for an entry of a table, whose first one in a page that is. */
q_status reserve_entry(const q_queue *q, const void *entry) {
    uint64_t offset = here(q, entry);
    if (offset % PAGE && offset % PAGE != CACHE_LINE) return Q_OK; /* number 0 is of no table */
    if (!has_file(q)) return Q_SYSTEM;
    return reserve(q->fd, offset & ~(uint64_t)(PAGE - 1), PAGE);
}

static q_status new_segment(q_queue *q, uint64_t bytes, int is_bump) { /* under the allocate lock */
    struct header *h = q->h;
    uint64_t number = get(&h->num_segments), offset = get(&h->file_bytes), bump = get(&h->bump);
    struct stat file;
    if (number >= MAX_SEGMENTS || bytes > OFFSET_MASK) return Q_NO_MEMORY;
    if (!has_file(q) || fstat(q->fd, &file)) return Q_SYSTEM;
    if (offset % 4096) return Q_CORRUPT;
    if (reserve_entry(q, &h->segments[number]) != Q_OK) return Q_NO_MEMORY;
    bytes = (bytes + 4095) & ~UINT64_C(4095);
    if (reserve(q->fd, offset, bytes) != Q_OK) {
        (void)!ftruncate(q->fd, file.st_size); /* never shorter: all of that may be mapped */
        return Q_NO_MEMORY;
    }
    struct segment *s = &h->segments[number];
    struct change c;
    begin(&c, &h->allocate);
    PLAN(&c, s->offset, offset);
    PLAN(&c, s->size, bytes);
    PLAN(&c, s->used, 0);
    PLAN(&c, h->file_bytes, offset + bytes);
    if (is_bump) PLAN(&c, h->bump, number);
    PLAN(&c, h->num_segments, number + 1);
    commit(&c);
    if (map_segment(q, (unsigned)number) == 1) return Q_OK;
    /* We have no room for it, and nobody else knows of it yet: a try that fails leaves nothing. */
    PLAN(&c, h->num_segments, number);
    PLAN(&c, h->file_bytes, offset);
    if (is_bump) PLAN(&c, h->bump, bump);
    commit(&c);
    (void)!ftruncate(q->fd, file.st_size);
    return Q_NO_MEMORY;
}

static q_status carve(q_queue *q, unsigned class, uint64_t *address) { /* under the allocate lock */
    struct header *h = q->h;
    uint64_t bytes = class_bytes(class), number = get(&h->bump);
    if (number >= MAX_SEGMENTS) return Q_CORRUPT;
    if (bytes >= OWN_SEGMENT_BYTES) {
        number = get(&h->num_segments);
        q_status status = new_segment(q, bytes, 0);
        if (status != Q_OK) return status;
    } else if (!number || get(&h->segments[number].size) - get(&h->segments[number].used) < bytes) {
        uint64_t wanted = get(&h->file_bytes) / 2; /* at most half of it is reserved too early */
        if (wanted > SMALL_SEGMENT_MAX) wanted = SMALL_SEGMENT_MAX;
        if (wanted < bytes) wanted = bytes;
        number = get(&h->num_segments);
        q_status status = new_segment(q, wanted, 1);
        if (status == Q_NO_MEMORY && wanted > bytes) status = new_segment(q, bytes, 1);
        if (status != Q_OK) return status;
    }
    struct segment *s = &h->segments[number];
    uint64_t used = get(&s->used);
    if (used % CACHE_LINE) return Q_CORRUPT;
    *address = number << SEGMENT_SHIFT | used;
    struct block *b = at(q, *address, bytes);
    if (!b) return Q_NO_MEMORY;
    POINT(12);
    b->magic_class = MAGIC ^ class;
    set(&b->state, BLOCK_OWNED | (uint64_t)q->slot << 32);
    set(&b->next, 0);
    set(&b->punched, 0);
    set(&b->fresh, 1);
    struct change c;
    begin(&c, &h->allocate);
    PLAN(&c, s->used, used + bytes);
    commit(&c);
    return Q_OK;
}

q_status allocate(q_queue *q, uint64_t bytes, uint64_t *address, int patient) {
    struct header *h = q->h;
    unsigned class = bytes > OFFSET_MASK ? NUM_CLASSES : class_of(bytes + sizeof(struct block));
    if (class >= NUM_CLASSES) return Q_NO_MEMORY;
    q_status status = take_lock(q, &h->allocate, patient);
    if (status != Q_OK) return status;
    POINT(10);
    word *list = &h->warm_block[class];
    if (!get(list)) list = &h->cold_block[class];
    uint64_t first = get(list);
    if (!first) {
        status = carve(q, class, address);
        unlock(&h->allocate);
        return status;
    }
    struct block *b = block_at(q, first);
    if (!b || (b->magic_class ^ MAGIC) != class || get(&b->state) != BLOCK_FREE) {
        unlock(&h->allocate);
        return Q_CORRUPT;
    }
    if (get(&b->punched)) {
        unsigned number = (unsigned)(first >> SEGMENT_SHIFT);
        uint64_t offset = get(&h->segments[number].offset) + (first & OFFSET_MASK);
        if (reserve(q->fd, offset, class_bytes(class)) != Q_OK) {
            unlock(&h->allocate);
            return Q_NO_MEMORY;
        }
        set(&b->fresh, 1);
    }
    struct change c;
    begin(&c, &h->allocate);
    PLAN(&c, *list, get(&b->next));
    if (list == &h->warm_block[class]) PLAN(&c, h->num_warm[class], get(&h->num_warm[class]) - 1);
    plan(&c, first + offsetof(struct block, punched), &b->punched, 0);
    plan(&c, first + offsetof(struct block, state), &b->state,
         BLOCK_OWNED | (uint64_t)q->slot << 32);
    commit(&c);
    unlock(&h->allocate);
    *address = first;
    return Q_OK;
}

void release_locked(q_queue *q, uint64_t address, struct block *b) {
    struct header *h = q->h;
    unsigned class = (unsigned)(b->magic_class ^ MAGIC);
    uint64_t bytes = class_bytes(class), warm = get(&h->num_warm[class]);
    uint64_t punch = get(&b->punched); /* whoever began with that was killed */
    if (!punch && bytes > 2 * 4096 && (warm + 1) * bytes > KEPT_FREE_BYTES) {
        uint64_t number = address >> SEGMENT_SHIFT;
        uint64_t start = get(&h->segments[number].offset) + (address & OFFSET_MASK);
        uint64_t first = (start + sizeof *b + 4095) & ~UINT64_C(4095);
        uint64_t last = (start + bytes) & ~UINT64_C(4095);
        set(&b->punched, 1);
        punch = last > first && !fallocate(q->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                           (off_t)first, (off_t)(last - first));
    }
    POINT(13);
    word *list = punch ? &h->cold_block[class] : &h->warm_block[class];
    struct change c;
    begin(&c, &h->allocate);
    plan(&c, address + offsetof(struct block, next), &b->next, get(list));
    plan(&c, address + offsetof(struct block, punched), &b->punched, punch);
    plan(&c, address + offsetof(struct block, state), &b->state, BLOCK_FREE);
    if (!punch) PLAN(&c, h->num_warm[class], warm + 1);
    PLAN(&c, *list, address);
    commit(&c);
}

q_status release(q_queue *q, uint64_t address, int patient) {
    struct block *b = block_at(q, address);
    if (!b) return Q_CORRUPT;
    q_status status = take_lock(q, &q->h->allocate, patient);
    if (status != Q_OK) return status;
    POINT(11);
    if (get(&b->state) == (BLOCK_OWNED | (uint64_t)q->slot << 32)) release_locked(q, address, b);
    unlock(&q->h->allocate);
    return Q_OK;
}

/* For what must not fail for a lock that is held: the sweep gets it in the end. */
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
    uint64_t number = block >> SEGMENT_SHIFT;
    const struct block *b = block_at(q, block);
    uint8_t *into = at(q, block + sizeof *b + offset, size);
    if (!b || !into) return;
    if (get(&b->fresh) && size >= CHUNK_BYTES) {
        /* The system fills new pages at once, and does not clear them before. */
        uint64_t begin = get(&q->h->segments[number].offset) + (block & OFFSET_MASK) + sizeof *b;
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
