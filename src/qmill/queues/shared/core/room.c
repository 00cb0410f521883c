/* Checks the limits of this process's control groups before memory is reserved, as the kernel kills a
 * process that exceeds one. The last shortage is remembered, so that an error can name the limit. */
#include "core.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define ASKED_AFTER (INT64_C(32) << 20) /* bytes at most, and less near a limit */
#define MARGIN_MAX (UINT64_C(16) << 20)

static _Thread_local q_refusal refused;

void refuse(q_limit limit, int error, uint64_t wanted) {
    refused = (q_refusal){limit, error, wanted, 0, 0};
}

q_refusal q_refused(void) {
    q_refusal last = refused;
    refused = (q_refusal){Q_NO_LIMIT, 0, 0, 0, 0};
    return last;
}

struct watched {
    size_t number;
    q_group groups[];
};

static struct watched *_Atomic watched;
static _Atomic int64_t before_asking = INT64_C(4) << 20; /* bytes that may be reserved before */

int q_watch_groups(const q_group *groups, size_t number) {
    struct watched *new = calloc(1, sizeof *new + number * sizeof *groups);
    if (!new) return -1;
    new->number = number;
    for (size_t i = 0; i < number; i++) {
        new->groups[i] =
            (q_group){strdup(groups[i].most), strdup(groups[i].used), strdup(groups[i].details)};
        if (!new->groups[i].most || !new->groups[i].used || !new->groups[i].details) return -1;
    }
    atomic_store(&watched, new); /* pairs with the load in `has_room`; the last may be in use */
    return 0;
}

/* Read the beginning of a small file; whether there was something. */
static int contents(const char *path, char *into, size_t size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t number = read(fd, into, size - 1);
    close(fd);
    into[number > 0 ? number : 0] = 0;
    return number > 0;
}

/* The number in a file; the largest one if it has none, as "max". */
static uint64_t number_in(const char *path) {
    char text[64];
    if (!contents(path, text, sizeof text) || text[0] < '0' || text[0] > '9') return UINT64_MAX;
    return strtoull(text, NULL, 10);
}

/* The bytes that the kernel can reclaim at once: pages of files that are no shared memory. */
static uint64_t reclaimable(const char *path) {
    static const char *const NAMES[] = {"inactive_file ", "active_file ", "total_inactive_file ",
                                        "total_active_file "};
    char text[8192];
    uint64_t values[4] = {0};
    if (!contents(path, text, sizeof text)) return 0;
    for (char *line = text; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        for (int i = 0; i < 4; i++)
            if (!strncmp(line, NAMES[i], strlen(NAMES[i])))
                values[i] = strtoull(line + strlen(NAMES[i]), NULL, 10);
    }
    /* Version 1 has a group's own pages, and in the last two those of the groups within as well. */
    return values[2] + values[3] ? values[2] + values[3] : values[0] + values[1];
}

/* The bytes that a group has left after `bytes` more and a margin; below 0 if beyond its limit. */
static int64_t left_in(const q_group *group, uint64_t bytes) {
    uint64_t most = number_in(group->most);
    if (most > INT64_MAX / 2) return INT64_MAX; /* no limit */
    uint64_t used = number_in(group->used), margin = most / 16 < MARGIN_MAX ? most / 16 : MARGIN_MAX;
    if (used > INT64_MAX / 2 || bytes > INT64_MAX / 4) return used > INT64_MAX / 2 ? INT64_MAX : -1;
    int64_t left = (int64_t)most - (int64_t)(used + bytes + margin);
    if (left < ASKED_AFTER) left += (int64_t)reclaimable(group->details);
    if (left < 0) refused = (q_refusal){Q_GROUP, 0, bytes, used, most};
    return left;
}

int has_room(uint64_t bytes) {
    if (bytes < INT64_MAX / 2 &&
        atomic_fetch_sub(&before_asking, (int64_t)bytes) >= (int64_t)bytes)
        return 1;
    int64_t least = INT64_MAX;
    const struct watched *those = atomic_load(&watched);
    for (size_t i = 0; those && i < those->number; i++) {
        int64_t left = left_in(&those->groups[i], bytes);
        if (left < 0) {
            atomic_store(&before_asking, 0);
            return 0;
        }
        if (left < least) least = left;
    }
    /* Others in the group reserve memory, too. */
    atomic_store(&before_asking, least / 8 < ASKED_AFTER ? least / 8 : ASKED_AFTER);
    return 1;
}
