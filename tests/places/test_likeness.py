"""Workers are like the program that starts them, at the moment when it does."""

from __future__ import annotations

import ast
import sys

import pytest

import qmill
from qmill.processes import likeness

from . import places


def test_workers_are_like_the_program(method):
    assert places.run("likeness.py", method) == "done\n"


FLAGS = """
import sys, qmill
def flags():
    return tuple(sys.flags), {**sys._xoptions}, sys.warnoptions, sys.get_int_max_str_digits()
if __name__ == "__main__":
    with qmill.JobQueue(1, start_method=sys.argv[1]) as jobs:
        told = [jobs.submit(flags).result(20), flags()]
    print(told)
"""


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("forkserver", "-W error -X dev -X utf8 -X int_max_str_digits=5000 -bb"),
        ("spawn", "-OO -B -E -s -X faulthandler -X no_debug_ranges"),
        ("forkserver", "-I -X warn_default_encoding"),
        ("spawn", "-O -P -X frozen_modules=off -W ignore::UserWarning -b -X own=1"),
    ],
)
def test_flags_of_the_interpreter(method, flags):
    told, own = ast.literal_eval(places.run(*flags.split(), "-c", FLAGS, method))
    told[1].pop("frozen_modules", None)  # an interpreter may add it by itself
    own[1].pop("frozen_modules", None)
    assert told == own


def test_a_filter_for_a_category_imports_nothing(method):
    """The category is compared by its name: its module may be heavy."""
    source = """
import decimal, sys, warnings, qmill
class Own(UserWarning): pass
Own.__module__ = "heavy_module"
warnings.simplefilter("error", Own)
def look(): return [str(f[2].__module__) for f in sys.modules["warnings"].filters][:1]
if __name__ == "__main__":
    print(qmill.Worker(look, start_method=sys.argv[1]).result(20))
"""
    assert places.run("-c", source, method) == "['heavy_module']\n"


def test_what_a_process_may_not_take_on_is_left():
    told = likeness.of_this_process()
    told |= {"processors": {1 << 20}, "recursion limit": 1, "locale": "none such"}
    before = likeness.of_this_process()
    likeness.take_on(told)
    assert likeness.of_this_process() == before


@pytest.mark.skipif(sys.platform != "linux", reason="there is another way to ask")
def test_everything_that_is_told_can_be_taken_on():
    assert likeness.of_this_process().keys() == likeness._TAKES.keys()


def test_workers_inherit_the_filters_of_a_test_that_is_run():
    """Of this very program, in which pytest has set filters."""
    assert qmill.run(qmill_filters).result(20) == qmill_filters()


def qmill_filters():
    return likeness._filters()
