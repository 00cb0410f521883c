/* Small objects of exact built-in types, and plain instances, to bytes and back without pickle.
 *
 *   N T F               None, True, False
 *   1 2 4 8             an int, in so many bytes          f    a float
 *   a u                 a str, ASCII or UTF-8             y    bytes: length (4 bytes), data
 *   l t d               a list, tuple, dict: count (4 bytes), items or keys and values
 *   o                   an instance: length (1 byte) and name of its class, then as d
 *
 * What could be aliased is refused, as copies would not be: inside of an object, a container or an
 * instance that anybody else refers to (so cycles are refused, too). Writing runs no Python code.
 */
#ifndef QMILL_CODEC_H
#define QMILL_CODEC_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define CODEC_PLANS 64
#define CODEC_KEYS 256
#define CODEC_DEPTH 12

/* One queue's. All references are its own. */
typedef struct {
    PyObject *sent;     /* set: keys of definitions that the queue has */
    PyObject *dispatch; /* dict: copyreg.dispatch_table */
    PyObject *classes;  /* dict: name -> (class, namespace or None, name in it) */
    PyObject *resolve;  /* callable(name): fills `classes` */
    PyTypeObject *missing; /* what codec_write refused for want of a plan; borrowed */
    struct {
        PyTypeObject *type; /* borrowed, and told apart by the version */
        unsigned version;
        PyObject *plan; /* (name, namespace or None, name in it, key or None), or None */
    } plans[CODEC_PLANS];
    PyObject *keys[CODEC_KEYS]; /* recent keys of dicts */
} codec;

codec *codec_new(PyObject *sent, PyObject *dispatch, PyObject *classes, PyObject *resolve);
void codec_free(codec *c);

/* Write an object; returns the end, or NULL without an exception if it is not for this codec, or
 * larger than what is left. */
unsigned char *codec_write(codec *c, unsigned char *at, unsigned char *end, PyObject *obj);
/* Remember how instances of `missing` are written. */
int codec_learn(codec *c, PyTypeObject *type, PyObject *plan);

/* Read an object and go on behind it. */
PyObject *codec_read(codec *c, const unsigned char **at, const unsigned char *end);

/* Make an object with slots without calling anything: `members` are their descriptors. */
PyObject *codec_make(PyTypeObject *type, PyObject *members, PyObject *a, PyObject *b, PyObject *c);

#endif
