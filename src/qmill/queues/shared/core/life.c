/* Detects which processes are alive: not by their ids, which differ between pid namespaces and are
 * used again, but by locks, which the kernel releases.
 *
 *   byte LIVES + slot of the queue's file <── locked by ── an open file of the process's own
 *                                                            ^ kept only by a mapping of one page,
 *                                                              which forked children do not get
 *
 * So the lock lasts as long as the memory of the process: until the process ends, even if its parent
 * has not waited for it, or calls `exec`. Children do not prolong it, and a process that closes
 * descriptors which it does not know does not lose it. The queue's own descriptor is another open
 * file, through which each process can see whether the byte is locked.
 *
 * Where the file cannot be opened anew (there is no /proc, no descriptor is left, or the process has
 * changed its user since it opened a queue with a name), the processes of its namespace identify it
 * by its id and the moment it was started; processes of other namespaces take it for alive.
 */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LIVES (INT64_C(1) << 62)
/* Values of `alive_by`: BY_LOCK; or BY_NUMBER | start of the process | its namespace << 32. */
#define BY_LOCK 0
#define BY_NUMBER (UINT64_C(1) << 31)
#define NOT_KNOWN (BY_NUMBER - 1) /* as the start of a process */

int is_own_file(const q_queue *q, int fd) {
    struct stat file;
    return !fstat(fd, &file) && (uint64_t)file.st_dev == q->device &&
           (uint64_t)file.st_ino == q->inode;
}

int has_file(const q_queue *q) { return is_own_file(q, q->fd); }

/* This process's, where there is no /proc; 0 before Linux 6.11. */
static uint64_t pid_namespace_without_proc(void) {
#ifdef SYS_pidfd_open
    struct stat s;
    int own = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (own < 0) return 0;
    int space = ioctl(own, _IO(0xFF, 5), 0); /* PIDFD_GET_PID_NAMESPACE of linux/pidfd.h */
    int known = space >= 0 && !fstat(space, &s);
    if (space >= 0) close(space);
    close(own);
    return known ? (uint64_t)s.st_ino : 0;
#else
    return 0;
#endif
}

uint64_t pid_namespace(void) {
    struct stat s;
    return stat("/proc/self/ns/pid", &s) ? pid_namespace_without_proc() : (uint64_t)s.st_ino;
}

/* -- by a lock ---------------------------------------------------------------------------------- */

/* Held while a life begins, and at forks: a child must not inherit a lock that is half made. */
static pthread_mutex_t beginning = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t begins_once = PTHREAD_ONCE_INIT;

static void before_fork(void) { pthread_mutex_lock(&beginning); }

static void after_fork(void) { pthread_mutex_unlock(&beginning); }

static void watch_forks(void) {
    if (pthread_atfork(before_fork, after_fork, after_fork)) abort();
}

static struct flock byte_of(uint32_t slot) {
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LIVES + slot, .l_len = 1};
}

/* The mapping that holds a slot's lock, or NULL. */
static void *lock_byte(const q_queue *q, uint32_t slot) {
    struct flock lock = byte_of(slot);
    char path[40];
    snprintf(path, sizeof path, "/proc/self/fd/%d", q->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return NULL;
    void *life = MAP_FAILED;
    if (is_own_file(q, fd) && !fcntl(fd, F_OFD_SETLK, &lock))
        life = mmap(NULL, PAGE, PROT_NONE, MAP_SHARED, fd, 0);
    if (life != MAP_FAILED && madvise(life, PAGE, MADV_DONTFORK)) {
        munmap(life, PAGE);
        life = MAP_FAILED;
    }
    close(fd);
    return life == MAP_FAILED ? NULL : life;
}

static int is_locked(const q_queue *q, uint32_t slot, int if_unknown) {
    struct flock lock = byte_of(slot);
    if (!has_file(q) || fcntl(q->fd, F_OFD_GETLK, &lock)) return if_unknown;
    return lock.l_type != F_UNLCK;
}

/* -- by its number ------------------------------------------------------------------------------ */

#define UNKNOWN UINT64_MAX

/* When a process was started, in ticks since boot; 0 if it is dead or a zombie, UNKNOWN if /proc
 * cannot be read now, for want of a descriptor, or as it hides the processes of other users: a living
 * one must not be taken for dead. */
static uint64_t start_of(uint64_t pid) {
    char path[40], text[1024];
    snprintf(path, sizeof path, "/proc/%llu/stat", (unsigned long long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT && kill((pid_t)pid, 0) && errno == ESRCH ? 0 : UNKNOWN;
    ssize_t size = read(fd, text, sizeof text - 1);
    int error = errno;
    close(fd);
    if (size <= 0) return size < 0 && error == ESRCH ? 0 : UNKNOWN;
    text[size] = 0;
    char *p = strrchr(text, ')'); /* the name may contain anything */
    if (!p || !p[1]) return UNKNOWN;
    char state = p[2];
    unsigned long long threads = 0, started = 0;
    if (sscanf(p + 3, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %*s %llu",
               &threads, &started) != 2)
        return UNKNOWN;
    /* If only its first thread has ended, it is shown as a zombie too. */
    if (state == 'X' || (state == 'Z' && threads <= 1)) return 0;
    return started ? started : UNKNOWN;
}

static uint64_t by_number(uint64_t started) {
    return (started == UNKNOWN ? NOT_KNOWN : started % NOT_KNOWN) | BY_NUMBER | pid_namespace() << 32;
}

static int has_ended(uint64_t pid, uint64_t alive_by) {
    if (alive_by >> 32 != pid_namespace() << 32 >> 32) return 0;
    if (kill((pid_t)pid, 0) && errno == ESRCH) return 1;
    uint64_t started = start_of(pid), found = by_number(started);
    return !started || (found != alive_by && (found & NOT_KNOWN) != NOT_KNOWN &&
                        (alive_by & NOT_KNOWN) != NOT_KNOWN);
}

/* -- for the other files ------------------------------------------------------------------------ */

/* Q_BUSY if the slot's last process lives on. */
q_status begin_life(q_queue *q, uint32_t slot, void **life, uint64_t *alive_by) {
    pthread_once(&begins_once, watch_forks);
    pthread_mutex_lock(&beginning);
    *life = lock_byte(q, slot);
    pthread_mutex_unlock(&beginning);
    if (!*life && is_locked(q, slot, 0)) return Q_BUSY;
    *alive_by = *life ? BY_LOCK : by_number(start_of((uint64_t)getpid()));
    return Q_OK;
}

void end_life(void *life) {
    if (life) munmap(life, PAGE);
}

/* Whether the process that has a slot is dead; no, where that cannot be known. */
int life_is_over(const q_queue *q, uint32_t slot) {
    const struct slot *s = &q->h->slots[slot];
    uint64_t alive_by = get(&s->alive_by);
    return alive_by == BY_LOCK ? !is_locked(q, slot, 1) : has_ended(get(&s->pid), alive_by);
}
