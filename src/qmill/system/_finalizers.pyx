# cython: language_level=3, freethreading_compatible=True
"""The native part of `finalizers`."""

from cpython.ref cimport Py_DECREF, Py_INCREF

from .interrupts import is_interrupt

cdef enum:
    MAX_TRIES = 100  # while the interpreter ends, `is_interrupt` itself may fail each time


cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void *) except -1, void *argument)


cdef int _raise(void *error) except -1:
    interrupt = <object>error
    Py_DECREF(interrupt)
    raise interrupt


def finalizer(function):
    """Turn a function into a `__del__` that hands on exceptions of signal handlers."""

    def __del__(self):
        raised = interrupt = None
        for _ in range(MAX_TRIES):
            try:
                if raised is not None:
                    if not is_interrupt(raised):
                        break
                    interrupt, raised = raised, None
                function(self)
                break
            except BaseException as error:  # perhaps of another handler, in `is_interrupt`
                before = interrupt if raised is None else raised
                if error.__context__ is None and before is not error:
                    error.__context__ = before
                raised = error
        if interrupt is not None:
            Py_INCREF(interrupt)
            if Py_AddPendingCall(_raise, <void *>interrupt):  # too many calls are pending
                Py_DECREF(interrupt)
                raise interrupt
        if raised is not None:
            raise raised

    __del__.__qualname__ = function.__qualname__
    return __del__
