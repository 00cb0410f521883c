/* Makes a queue in an empty file, and attaches to a queue that is there. */
#include "core.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint32_t abi(void) {
    uint32_t order = 0x01020304;
    uint8_t first;
    memcpy(&first, &order, 1);
    return (uint32_t)sizeof(void *) | (uint32_t)first << 8 | (uint32_t)sizeof(pthread_mutex_t) << 16;
}

static uint64_t header_bytes(void) { return sizeof(struct header); }

static q_status new_queue(int fd, q_queue **made) {
    struct stat file;
    if (fstat(fd, &file)) return Q_SYSTEM;
    q_queue *q = calloc(1, sizeof *q);
    if (!q) return Q_NO_MEMORY;
    void *p = mmap(NULL, header_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        free(q);
        return Q_NO_MEMORY;
    }
    q->h = p;
    q->fd = fd;
    q->device = (uint64_t)file.st_dev;
    q->inode = (uint64_t)file.st_ino;
    q->generation = fork_generation();
    set(&q->bytes[0], header_bytes());
    atomic_store(&q->base[0], p);
    *made = q;
    return Q_OK;
}

static int init_lock(struct lock *lock) {
    pthread_mutexattr_t attributes;
    if (pthread_mutexattr_init(&attributes)) return -1;
    int error = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) ||
                pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) ||
                pthread_mutex_init(&lock->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return error;
}

q_status q_create(int fd, uint64_t maxsize, const uint8_t uuid[16], q_queue **made) {
    if (ftruncate(fd, (off_t)header_bytes()) || /* the tables' memory is reserved when it is used */
        reserve(fd, 0, offsetof(struct header, segments)) != Q_OK)
        return Q_NO_MEMORY;
    q_queue *q;
    q_status status = new_queue(fd, &q);
    if (status != Q_OK) return status;
    struct header *h = q->h;
    h->version = VERSION;
    h->abi = abi();
    memcpy(h->uuid, uuid, 16);
    h->uid = geteuid();
    h->pid_namespace = pid_namespace();
    set(&h->maxsize, maxsize);
    h->header_bytes = header_bytes();
    set(&h->num_segments, 1);
    set(&h->segments[0].size, header_bytes());
    set(&h->file_bytes, header_bytes());
    set(&h->max_kept_bytes, Q_CHOSEN);
    set(&h->compact_at, 16);
    set(&h->num_chunks, 1);
    set(&h->num_slots, 1);
    if (init_lock(&h->put) || init_lock(&h->get) || init_lock(&h->allocate)) {
        q->fd = -1; /* the caller's still */
        q_detach(q);
        return Q_SYSTEM;
    }
    uint64_t first = here(q, &h->first_link);
    set(&h->first_chunk.magic_class, MAGIC);
    set(&h->first_chunk.state, BLOCK_CHUNK);
    set(&h->oldest_chunk, here(q, &h->first_chunk));
    set(&h->tail_chunk, first + sizeof(struct record) - CHUNK_BYTES); /* so it is full: modulo 2^64 */
    set(&h->puts.at[0].place, first);
    set(&h->gets.at[0].place, first);
    set(&h->oldest, first);
    atomic_thread_fence(memory_order_release);
    h->magic = MAGIC;
    *made = q;
    return Q_OK;
}

/* Whether a lock is one that `init_lock` made: glibc aborts over a mutex of a kind that cannot be. */
static int is_lock(const struct lock *lock) {
#ifdef __GLIBC__
    struct lock made;
    if (init_lock(&made)) return 0;
    int same = lock->mutex.__data.__kind == made.mutex.__data.__kind;
    pthread_mutex_destroy(&made.mutex);
    return same;
#else
    return lock != NULL;
#endif
}

/* No other process has the file open, and all processes in its slots are dead: it may be from before
 * a restart or from another container, so its locks and process ids mean nothing here. The first
 * process to lock completes changes planned in the journals, as always. */
static q_status adopt(struct header *h) {
    struct lock *locks[] = {&h->put, &h->get, &h->allocate};
    for (int i = 0; i < 3; i++)
        if (init_lock(locks[i])) return Q_SYSTEM;
    uint64_t number = get(&h->num_slots);
    for (uint64_t i = 1; i < number && i < MAX_SLOTS; i++)
        set(&h->slots[i].alive_by, 0); /* BY_LOCK, and no process has this lock */
    h->pid_namespace = pid_namespace();
    return Q_OK;
}

static q_status attach(int fd, const uint8_t *uuid, int alone, int any_user, q_queue **made) {
    struct stat file;
    if (fstat(fd, &file)) return Q_SYSTEM;
    if (!S_ISREG(file.st_mode) || (!any_user && file.st_uid != geteuid()) ||
        (uint64_t)file.st_size < header_bytes())
        return Q_FOREIGN;
    q_queue *q;
    q_status status = new_queue(fd, &q);
    if (status != Q_OK) return status;
    struct header *h = q->h;
    if (h->magic != MAGIC || h->version != VERSION || h->abi != abi() ||
        h->header_bytes != header_bytes() || (!any_user && h->uid != geteuid()) ||
        (!alone && h->pid_namespace != pid_namespace()) || (uuid && memcmp(h->uuid, uuid, 16)) ||
        !is_lock(&h->put) || !is_lock(&h->get) || !is_lock(&h->allocate)) {
        q->fd = -1; /* the caller's still */
        q_detach(q);
        return Q_FOREIGN;
    }
    if (alone && (status = adopt(h)) != Q_OK) {
        q->fd = -1;
        q_detach(q);
        return status;
    }
    if (alone) forget_delays(q);
    *made = q;
    return Q_OK;
}

q_status q_attach(int fd, const uint8_t uuid[16], q_queue **made) {
    return attach(fd, uuid, 0, uuid != NULL, made);
}

q_status q_receive(int fd, q_queue **made) { return attach(fd, NULL, 0, 1, made); }

q_status q_adopt(int fd, q_queue **made) { return attach(fd, NULL, 1, 0, made); }

void q_detach(q_queue *q) {
    for (unsigned i = 0; i < MAX_SEGMENTS; i++) {
        uint8_t *base = atomic_load(&q->base[i]);
        if (base) munmap(base, get(&q->bytes[i]));
    }
    /* If it could not leave, its slot stays taken until this process ends. */
    if (q->generation == fork_generation() && !q->slot) end_life(q->life);
    if (q->fd >= 0) close(q->fd);
    free(q);
}

int q_fd(const q_queue *q) { return q->fd; }

const uint8_t *q_uuid(const q_queue *q) { return q->h->uuid; }

uint64_t q_maxsize(const q_queue *q) { return get(&q->h->maxsize); }
