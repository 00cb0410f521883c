/* Small objects of exact built-in types, and plain instances, to bytes and back without pickle.
 *
 *   N T F               None, True, False
 *   1 2 4 8             an int, in so many bytes          f    a float
 *   a u                 a str, ASCII or UTF-8             y    bytes: length (4 bytes), data
 *   l t d               a list, tuple, dict: count (4 bytes), items or keys and values
 *   o                   an instance: length (1 byte) and name of its class, then as d
 *
 * Objects that may be aliased are refused, as their copies would be separate objects: a container
 * or an instance, inside of the object, to which another reference exists (so cycles are refused,
 * too). Writing runs no Python code.
 */
#ifndef QMILL_CODEC_H
#define QMILL_CODEC_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define CODEC_PLANS 64
#define CODEC_KEYS 256
#define CODEC_DEPTH 12

/* One queue's. All references are its own. */
typedef struct {
    PyObject *sent;     /* set: keys of definitions that the queue has */
    PyObject *dispatch; /* dict: copyreg.dispatch_table */
    PyObject *classes;  /* dict: name -> (class, namespace or None, name in it) */
    PyObject *resolve;  /* callable(name): fills `classes` */
    PyTypeObject *missing; /* the class that codec_write refused for want of a plan; borrowed */
    struct {
        PyTypeObject *type; /* borrowed, and told apart by the version */
        unsigned version;
        PyObject *plan; /* (name, namespace or None, name in it, key or None), or None */
    } plans[CODEC_PLANS];
    PyObject *keys[CODEC_KEYS]; /* recent keys of dicts */
} codec;

codec *codec_new(PyObject *sent, PyObject *dispatch, PyObject *classes, PyObject *resolve);
void codec_free(codec *c);

/* An int of 64 bits, in as few bytes as it needs. Writing needs room for nine; reading uses all bytes
 * from `at` to `end`. */
static inline unsigned char *codec_write_int(unsigned char *at, int64_t value) {
    int size = 8;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (value == (int32_t)value)
        size = value == (int8_t)value ? 1 : value == (int16_t)value ? 2 : 4;
#endif
    *at++ = (unsigned char)('0' + size);
    memcpy(at, &value, 8);
    return at + size;
}

static inline int codec_read_int(const unsigned char *at, const unsigned char *end,
                                 int64_t *value) {
    int32_t word;
    if (end - at == 5 && *at == '4') {
        memcpy(&word, at + 1, 4);
        *value = word;
    } else if (end - at == 9 && *at == '8') {
        memcpy(value, at + 1, 8);
    } else if (end - at == 3 && *at == '2') {
        *value = (int16_t)(at[1] | at[2] << 8);
    } else if (end - at == 2 && *at == '1') {
        *value = (int8_t)at[1];
    } else {
        return 0;
    }
    return 1;
}

static inline PyObject *codec_new_int(int64_t value) {
    return sizeof(long) == 8 ? PyLong_FromLong((long)value) : PyLong_FromLongLong(value); /* quicker */
}

/* Write an object; return the end, or NULL without an exception if it is not for this codec, or larger
 * than the remaining room. */
unsigned char *codec_write(codec *c, unsigned char *at, unsigned char *end, PyObject *obj);
/* Remember how instances of `missing` are written. */
int codec_learn(codec *c, PyTypeObject *type, PyObject *plan);

/* Read an object and go on behind it. */
PyObject *codec_read(codec *c, const unsigned char **at, const unsigned char *end);

/* Make an object with slots without calling anything: `members` are their descriptors. */
PyObject *codec_make(PyTypeObject *type, PyObject *members, PyObject *a, PyObject *b, PyObject *c);

#endif
