/* Notices how a loop is left: by an exception, if one is set while its iterator is freed. Cython
 * hides it from `__dealloc__`, so it is read before. */
#ifndef QMILL_LEAVING_H
#define QMILL_LEAVING_H

#include <Python.h>

/* Set for the `__dealloc__` that comes next in this thread, which reads it first of all. */
static _Thread_local int left_by_exception;

static destructor messages_dealloc, loop_dealloc;

static void leave_messages(PyObject *self) {
    left_by_exception = PyErr_Occurred() != NULL;
    messages_dealloc(self);
}

static void leave_loop(PyObject *self) {
    left_by_exception = PyErr_Occurred() != NULL;
    loop_dealloc(self);
}

/* Cython calls `__del__` in a `tp_dealloc` of its own only: with these, a collection alone does. */
static void tell_leaving(PyTypeObject *messages, PyTypeObject *loop) {
    messages_dealloc = messages->tp_dealloc;
    messages->tp_dealloc = leave_messages;
    loop_dealloc = loop->tp_dealloc;
    loop->tp_dealloc = leave_loop;
}

#endif
