#include "_codec.h"

#include <structmember.h>

#define HEAD 16 /* no head of an item is longer */

codec *codec_new(PyObject *sent, PyObject *dispatch, PyObject *classes, PyObject *resolve) {
    codec *c = PyMem_Calloc(1, sizeof *c);
    if (!c) {
        PyErr_NoMemory();
        return NULL;
    }
    c->sent = Py_NewRef(sent);
    c->dispatch = Py_NewRef(dispatch);
    c->classes = Py_NewRef(classes);
    c->resolve = Py_NewRef(resolve);
    return c;
}

void codec_free(codec *c) {
    if (!c) return;
    Py_DECREF(c->sent);
    Py_DECREF(c->dispatch);
    Py_DECREF(c->classes);
    Py_DECREF(c->resolve);
    for (int i = 0; i < CODEC_PLANS; i++) Py_XDECREF(c->plans[i].plan);
    for (int i = 0; i < CODEC_KEYS; i++) Py_XDECREF(c->keys[i]);
    PyMem_Free(c);
}

/* -- writing ------------------------------------------------------------------------------------ */

static unsigned version_of(const PyTypeObject *type) {
#if PY_VERSION_HEX < 0x030C0000
    if (!PyType_HasFeature((PyTypeObject *)type, Py_TPFLAGS_VALID_VERSION_TAG)) return 0;
#endif
    return type->tp_version_tag;
}

static unsigned char *put_u32(unsigned char *at, uint32_t value) {
    memcpy(at, &value, 4);
    return at + 4;
}

static unsigned char *write_data(unsigned char *at, unsigned char *end, unsigned char tag,
                                 const char *data, Py_ssize_t size) {
    if (size > end - at - HEAD) return NULL;
    *at++ = tag;
    at = put_u32(at, (uint32_t)size);
    memcpy(at, data, (size_t)size);
    return at + size;
}

static unsigned char *write_str(unsigned char *at, unsigned char *end, PyObject *o) {
    Py_ssize_t size;
    if (PyUnicode_IS_COMPACT_ASCII(o))
        return write_data(at, end, 'a', PyUnicode_DATA(o), PyUnicode_GET_LENGTH(o));
    if (PyUnicode_GET_LENGTH(o) > end - at) return NULL; /* else its UTF-8 would be kept in vain */
    const char *text = PyUnicode_AsUTF8AndSize(o, &size);
    if (!text) { /* a lone surrogate */
        PyErr_Clear();
        return NULL;
    }
    return write_data(at, end, 'u', text, size);
}

static unsigned char *write_int(unsigned char *at, PyObject *o) {
    int overflow;
    int64_t value = PyLong_AsLongLongAndOverflow(o, &overflow);
    if (overflow) return NULL;
    return codec_write_int(at, value);
}

static unsigned char *write_any(codec *c, unsigned char *at, unsigned char *end, PyObject *o,
                                int depth);

static unsigned char *write_items(codec *c, unsigned char *at, unsigned char *end, PyObject *dict,
                                  int depth) {
    Py_ssize_t position = 0;
    PyObject *key, *value;
    at = put_u32(at, (uint32_t)PyDict_GET_SIZE(dict));
    while (PyDict_Next(dict, &position, &key, &value)) {
        at = write_any(c, at, end, key, depth);
        if (!at) return NULL;
        at = write_any(c, at, end, value, depth);
        if (!at) return NULL;
    }
    return at;
}

static unsigned char *write_instance(codec *c, unsigned char *at, unsigned char *end, PyObject *o,
                                     int depth) {
    PyTypeObject *type = Py_TYPE(o);
    unsigned version = version_of(type);
    size_t place = ((uintptr_t)type >> 6) % CODEC_PLANS;
    if (!PyType_HasFeature(type, Py_TPFLAGS_HEAPTYPE) || !c->sent) return NULL;
    if (c->plans[place].type != type || c->plans[place].version != version || !version) {
        c->missing = type;
        return NULL;
    }
    PyObject *plan = c->plans[place].plan;
    if (plan == Py_None || PyDict_Contains(c->dispatch, (PyObject *)type)) return NULL;
    PyObject *name = PyTuple_GET_ITEM(plan, 0), *namespace = PyTuple_GET_ITEM(plan, 1);
    PyObject *key = PyTuple_GET_ITEM(plan, 3);
    if (namespace != Py_None &&
        PyDict_GetItemWithError(namespace, PyTuple_GET_ITEM(plan, 2)) != (PyObject *)type)
        return NULL;
    if (key != Py_None && PySet_Contains(c->sent, key) != 1) return NULL;
    Py_ssize_t size = PyBytes_GET_SIZE(name);
    if (size > end - at - HEAD) return NULL;
    *at++ = 'o';
    *at++ = (unsigned char)size;
    memcpy(at, PyBytes_AS_STRING(name), (size_t)size);
    PyObject *state = PyObject_GenericGetDict(o, NULL);
    if (!state) {
        PyErr_Clear();
        return NULL;
    }
    at = write_items(c, at + size, end, state, depth);
    Py_DECREF(state);
    return at;
}

static unsigned char *write_any(codec *c, unsigned char *at, unsigned char *end, PyObject *o,
                                int depth) {
    if (end - at < HEAD) return NULL;
    PyTypeObject *type = Py_TYPE(o);
    if (type == &PyUnicode_Type) return write_str(at, end, o);
    if (type == &PyLong_Type) return write_int(at, o);
    if (type == &PyFloat_Type) {
        double value = PyFloat_AS_DOUBLE(o);
        *at++ = 'f';
        memcpy(at, &value, 8);
        return at + 8;
    }
    if (o == Py_None || type == &PyBool_Type) {
        *at++ = o == Py_None ? 'N' : o == Py_True ? 'T' : 'F';
        return at;
    }
    if (type == &PyBytes_Type)
        return write_data(at, end, 'y', PyBytes_AS_STRING(o), PyBytes_GET_SIZE(o));
#ifdef Py_GIL_DISABLED
    return NULL; /* other threads may change the object, and references are counted otherwise */
#else
    if (!depth) return NULL;
    if (depth != CODEC_DEPTH && Py_REFCNT(o) != 1) {
        if (type != &PyTuple_Type) return NULL;
        depth = 1; /* a tuple of scalars may be copied: a copy acts like the original */
    }
    if (type == &PyDict_Type) {
        *at++ = 'd';
        return write_items(c, at, end, o, depth - 1);
    }
    if (type != &PyList_Type && type != &PyTuple_Type)
        return write_instance(c, at, end, o, depth - 1);
    Py_ssize_t number = Py_SIZE(o);
    PyObject **items = PySequence_Fast_ITEMS(o);
    if (number > end - at - HEAD) return NULL;
    *at++ = type == &PyList_Type ? 'l' : 't';
    at = put_u32(at, (uint32_t)number);
    for (Py_ssize_t i = 0; at && i < number; i++) at = write_any(c, at, end, items[i], depth - 1);
    return at;
#endif
}

unsigned char *codec_write(codec *c, unsigned char *at, unsigned char *end, PyObject *obj) {
    c->missing = NULL;
    return write_any(c, at, end, obj, CODEC_DEPTH);
}

int codec_learn(codec *c, PyTypeObject *type, PyObject *plan) {
    unsigned version = version_of(type);
    size_t place = ((uintptr_t)type >> 6) % CODEC_PLANS;
    if (!version) return 0;
    c->plans[place].type = type;
    c->plans[place].version = version;
    Py_XSETREF(c->plans[place].plan, Py_NewRef(plan));
    return 1;
}

/* -- reading ------------------------------------------------------------------------------------ */

static PyObject *damaged(void) {
    PyErr_SetString(PyExc_RuntimeError,
                    "the queue's shared memory is damaged: another program has written to it");
    return NULL;
}

static int get_u32(const unsigned char **at, const unsigned char *end, uint32_t *value) {
    if (end - *at < 4) return 0;
    memcpy(value, *at, 4);
    *at += 4;
    return *value <= (size_t)(end - *at); /* bytes, or items of at least one byte */
}

static PyObject *new_ascii(const unsigned char *data, uint32_t size) {
    for (uint32_t i = 0; i < size; i++)
        if (data[i] & 0x80) return damaged();
    PyObject *o = PyUnicode_New(size, 127);
    if (o) memcpy(PyUnicode_DATA(o), data, size);
    return o;
}

/* Read a dict's key: the same few keys come again and again. Names of attributes are interned. */
static PyObject *read_key(codec *c, const unsigned char **at, const unsigned char *end, int is_name) {
#ifndef Py_GIL_DISABLED
    if (end - *at > 5 && **at == 'a') {
        const unsigned char *p = *at + 1;
        uint32_t size;
        if (!get_u32(&p, end, &size)) return damaged();
        if (size && size <= 32) {
            PyObject **place = &c->keys[(size * 31u + p[0] * 7u + p[size / 2] * 131u +
                                         p[size - 1] * 17u) % CODEC_KEYS];
            *at = p + size;
            if (*place && PyUnicode_GET_LENGTH(*place) == size &&
                !memcmp(PyUnicode_DATA(*place), p, size) &&
                (!is_name || PyUnicode_CHECK_INTERNED(*place)))
                return Py_NewRef(*place);
            PyObject *key = new_ascii(p, size);
            if (key && is_name) PyUnicode_InternInPlace(&key);
            if (key) Py_XSETREF(*place, Py_NewRef(key));
            return key;
        }
    }
#endif
    PyObject *key = codec_read(c, at, end);
    if (key && is_name && PyUnicode_CheckExact(key)) PyUnicode_InternInPlace(&key);
    return key;
}

static int read_items(codec *c, const unsigned char **at, const unsigned char *end, PyObject *dict,
                      int are_names) {
    uint32_t number;
    if (!get_u32(at, end, &number)) {
        damaged();
        return -1;
    }
    while (number--) {
        PyObject *key = read_key(c, at, end, are_names);
        if (!key) return -1;
        PyObject *value = codec_read(c, at, end);
        int failed = !value || PyDict_SetItem(dict, key, value);
        Py_DECREF(key);
        Py_XDECREF(value);
        if (failed) return -1;
    }
    return 0;
}

static PyObject *class_of(codec *c, const unsigned char *data, size_t size) {
    PyObject *name = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
    if (!name) return NULL;
    PyObject *known = PyDict_GetItemWithError(c->classes, name), *type = NULL;
    if (known && PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == 3) {
        PyObject *namespace = PyTuple_GET_ITEM(known, 1);
        type = PyTuple_GET_ITEM(known, 0);
        if (namespace != Py_None &&
            PyDict_GetItemWithError(namespace, PyTuple_GET_ITEM(known, 2)) != type)
            type = NULL; /* the name means another class by now */
    }
    type = type ? Py_NewRef(type) : PyErr_Occurred() ? NULL : PyObject_CallOneArg(c->resolve, name);
    Py_DECREF(name);
    return type;
}

static PyObject *read_instance(codec *c, const unsigned char **at, const unsigned char *end) {
    static PyObject *nothing;
    if (!nothing && !(nothing = PyTuple_New(0))) return NULL;
    if (end - *at < 1 || end - *at - 1 < **at) return damaged();
    size_t size = *(*at)++;
    PyObject *type = class_of(c, *at, size);
    if (!type) return NULL;
    *at += size;
    PyObject *made = NULL, *state = NULL;
    if (!PyType_Check(type) || !((PyTypeObject *)type)->tp_new)
        PyErr_Format(PyExc_TypeError, "%R is not a class of which there are instances", type);
    else
        made = ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, nothing, NULL);
    Py_DECREF(type);
    if (!made) return NULL;
    state = PyObject_GenericGetDict(made, NULL);
    if (!state || read_items(c, at, end, state, 1)) Py_CLEAR(made);
    Py_XDECREF(state);
    return made;
}

static PyObject *read_sequence(codec *c, const unsigned char **at, const unsigned char *end,
                               int is_list) {
    uint32_t number;
    if (!get_u32(at, end, &number)) return damaged();
    PyObject *o = is_list ? PyList_New(number) : PyTuple_New(number);
    for (uint32_t i = 0; o && i < number; i++) {
        PyObject *item = codec_read(c, at, end);
        if (!item)
            Py_CLEAR(o);
        else if (is_list)
            PyList_SET_ITEM(o, i, item);
        else
            PyTuple_SET_ITEM(o, i, item);
    }
    return o;
}

PyObject *codec_read(codec *c, const unsigned char **at, const unsigned char *end) {
    if (end - *at < 1) return damaged();
    unsigned char tag = *(*at)++;
    PyObject *o;
    switch (tag) {
    case 'N': Py_RETURN_NONE;
    case 'T': Py_RETURN_TRUE;
    case 'F': Py_RETURN_FALSE;
    case '1': case '2': case '4': case '8': {
        int size = tag - '0';
        int64_t value = 0;
        if (end - *at < size || !codec_read_int(*at - 1, *at + size, &value)) return damaged();
        *at += size;
        return codec_new_int(value);
    }
    case 'f': {
        double value;
        if (end - *at < 8) return damaged();
        memcpy(&value, *at, 8);
        *at += 8;
        return PyFloat_FromDouble(value);
    }
    case 'a': case 'u': case 'y': {
        uint32_t size;
        if (!get_u32(at, end, &size)) return damaged();
        const unsigned char *data = *at;
        *at += size;
        if (tag == 'a') return new_ascii(data, size);
        if (tag == 'u') return PyUnicode_DecodeUTF8((const char *)data, size, "strict");
        return PyBytes_FromStringAndSize((const char *)data, size);
    }
    case 'l': case 't':
    case 'd': case 'o':
        if (Py_EnterRecursiveCall(" while a message is read")) return NULL;
        if (tag == 'o') {
            o = read_instance(c, at, end);
        } else if (tag == 'd') {
            o = PyDict_New();
            if (o && read_items(c, at, end, o, 0)) Py_CLEAR(o);
        } else {
            o = read_sequence(c, at, end, tag == 'l');
        }
        Py_LeaveRecursiveCall();
        return o;
    default: return damaged();
    }
}

PyObject *codec_make(PyTypeObject *type, PyObject *members, PyObject *a, PyObject *b, PyObject *c) {
    PyObject *values[] = {a, b, c}, *o = type->tp_alloc(type, 0);
    for (int i = 0; o && i < 3; i++) {
        PyMemberDescrObject *member = (PyMemberDescrObject *)PyTuple_GET_ITEM(members, i);
        if (!Py_IS_TYPE((PyObject *)member, &PyMemberDescr_Type)) {
            PyErr_SetString(PyExc_TypeError, "a message's class must have slots");
            Py_CLEAR(o);
        } else if (PyMember_SetOne((char *)o, member->d_member, values[i])) {
            Py_CLEAR(o);
        }
    }
    return o;
}
