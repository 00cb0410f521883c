"""CPython's tests of queues: of `queue.Queue` between threads, of `multiprocessing`'s beyond.

A group of the first is a place of `conformance_support`; one of the others, a start method.
"""

from __future__ import annotations

import multiprocessing
import unittest

from conformance_support import MAKER, PLACES, Maker, Program
from cpython_tests import bind, has

import qmill

LEFT_OUT = {
    "test_closed_queue_empty_exceptions": "a queue that is closed refuses every call, used or not",
    "test_queue_feeder_donot_stop_onexc": "there is no feeder thread: put itself raises",
    "test_queue_feeder_on_queue_feeder_error": "is about a class of multiprocessing.queues",
}


class OfPlace:
    """Has the tests of `queue.Queue` use the queues that a `Maker` makes."""

    queue = qmill  # for Empty, Full and ShutDown
    make = None

    def setUp(self):
        super().setUp()
        self.type2test = self.make_queue

    def make_queue(self, *args):
        queue = OfPlace.make(*args)
        # They look up the order of the items by the name of the class.
        queue.__class__ = type("Queue", (type(queue),), {})
        return queue


if has("test_queue"):
    from test.test_queue import BaseQueueTestMixin

    bind(globals(), "QueueTest", [OfPlace, BaseQueueTestMixin, unittest.TestCase], LEFT_OUT)

if has("_test_multiprocessing"):
    from test._test_multiprocessing import ProcessesMixin, _TestQueue

    bind(
        globals(),
        "ProcessesTest",
        [_TestQueue, ProcessesMixin, unittest.TestCase],
        LEFT_OUT,
        Queue=staticmethod(qmill.Queue),
        JoinableQueue=staticmethod(qmill.Queue),
    )


def run(group, outcomes):
    """Run the tests of a group."""
    if group in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method(group, force=True)
        # For those that do not take it from their class.
        multiprocessing.Queue = multiprocessing.JoinableQueue = qmill.Queue
        outcomes.run(globals()["ProcessesTest"])
        return
    (place,) = (place for place in PLACES if str(place) == group)
    program = Program(MAKER) if place.made == "elsewhere" else None
    OfPlace.make = Maker(place, program)
    outcomes.run(globals()["QueueTest"])
    OfPlace.make.clean_up()
    if program is not None:
        program.tell("end")
        program.finish()
