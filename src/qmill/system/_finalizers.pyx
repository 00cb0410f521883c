# cython: language_level=3, freethreading_compatible=True
"""The native part of `finalizers`."""

from cpython.ref cimport Py_DECREF, Py_INCREF

from .interrupts import is_interrupt


cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void *) except -1, void *argument)


cdef int _raise(void *error) except -1:
    interrupt = <object>error
    Py_DECREF(interrupt)
    raise interrupt


def finalizer(function):
    """Turn a function into a `__del__` that hands on exceptions of signal handlers."""

    def __del__(self):
        interrupt = None
        while True:
            try:
                function(self)
                break
            except BaseException as error:
                if not is_interrupt(error):
                    raise
                interrupt = error
        if interrupt is not None:
            Py_INCREF(interrupt)
            if Py_AddPendingCall(_raise, <void *>interrupt):
                Py_DECREF(interrupt)
                raise interrupt

    __del__.__qualname__ = function.__qualname__
    return __del__
