"""Readers in other pid namespaces, where process numbers mean something else, and without /proc."""

from __future__ import annotations

import pytest

import qmill

from . import places
from .programs.exits import version

pytestmark = [
    pytest.mark.skipif(not qmill.core_info().core, reason="needs the native core"),
    pytest.mark.skipif(not places.may_unshare(), reason="may have no own namespaces"),
]


def run(*parts):
    return places.run("-W", "ignore::DeprecationWarning", "namespaces.py", *parts)


@pytest.mark.parametrize("proc", ["own_proc", "outer_proc", "no_proc"])
def test_two_living_readers_of_the_same_number(proc):
    assert run("equal_numbers", proc) == "done\n"


@pytest.mark.skipif(version() < (6, 11), reason="needs Linux 6.11")
def test_a_reader_that_sees_no_proc():
    assert run("hidden_proc") == "done\n"


def test_a_name_of_another_namespace_is_refused_with_the_reason():
    assert run("attach") == "done\n"
