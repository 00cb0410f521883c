"""Functions and classes of `__main__` travel by value."""

from __future__ import annotations

import sys
import threading
import types

import numpy
import pytest

import qmill
from qmill.packing.serialize import InlineExports, dumps, loads

from .channel import LARGE, POINT, Process


def test_a_class_of_main_crosses_once(channel, sender):
    first = channel.send(sender["Point"](1))
    second = channel.send([sender["Point"](2)])[0]
    assert type(first) is type(second)
    assert second.doubled().x == 4
    assert len(channel.definitions) == 1
    assert len(channel.fetched) == 1


def test_after_the_first_a_message_is_small(channel, sender):
    channel.send(sender["Point"](1))
    assert len(channel.pack(sender["Point"](2))) < 200


def test_a_class_of_main_comes_home_as_itself(channel, back, sender, reader):
    there = channel.send(sender["Point"](1))
    with reader:
        doubled = there.doubled()
    home = back.send(doubled)
    assert type(home) is sender["Point"]
    assert home.x == 2
    assert back.definitions == {} or not back.fetched


def test_a_class_itself_comes_home_as_itself(channel, back, sender):
    assert back.send(channel.send(sender["Point"])) is sender["Point"]


def test_a_nested_class_of_main(channel, back, sender):
    there = channel.send(sender["Point"].Inner())
    assert type(back.send(there)) is sender["Point"].Inner


def test_outer_and_nested_class_are_the_same_classes_however_they_cross(channel, sender):
    inner = channel.send(sender["Point"].Inner())
    point = channel.send(sender["Point"])
    assert point.Inner is type(inner)


def test_a_function_of_main_crosses_once_and_comes_home(channel, back, sender):
    sender.run("FACTOR = 3\ndef scaled(x): return FACTOR * x")
    there = channel.send(sender["scaled"])
    assert there(2) == 6
    assert channel.send(sender["scaled"]) is there
    assert len(channel.definitions) == 1
    assert back.send(there) is sender["scaled"]


def test_a_local_class_of_mains_function_comes_home_as_itself(channel, back, sender):
    sender.run("def make():\n class Local: pass\n return Local")
    local = sender["make"]()
    there = channel.send(local())
    assert type(there).__name__ == "Local"
    assert type(back.send(there)) is local


def test_a_subclass_is_a_subclass_there(channel, sender):
    sender.run("class Pixel(Point): pass")
    pixel = channel.send(sender["Pixel"](1))
    point = channel.send(sender["Point"](1))
    assert isinstance(pixel, type(point))


def test_a_subclass_is_a_subclass_there_in_the_other_order(channel, sender):
    sender.run("class Pixel(Point): pass")
    point = channel.send(sender["Point"](1))
    pixel = channel.send(sender["Pixel"](1))
    assert isinstance(pixel, type(point))


def test_what_a_subclass_brought_along_comes_home_as_itself(channel, back, sender, reader):
    sender.run("class Pixel(Point): pass")
    pixel = channel.send(sender["Pixel"](1))
    with reader:
        point = type(pixel).__mro__[1](5)
    assert type(back.send(point)) is sender["Point"]


def test_an_exception_class_of_main(channel, back, sender):
    sender.run("class Failure(Exception): pass")
    there = channel.send(sender["Failure"]("text"))
    home = back.send(there)
    assert type(home) is sender["Failure"]
    assert home.args == ("text",)


def test_an_enum_of_main_has_the_same_members(channel, back, sender):
    sender.run("import enum\nclass Color(enum.Enum):\n RED = 1\n BLUE = 2")
    there = channel.send([sender["Color"].RED, sender["Color"]])
    assert there[0] is there[1].RED
    assert back.send(there[0]) is sender["Color"].RED


def test_a_redefined_class_is_another_class(channel, back, sender):
    old = channel.send(sender["Point"](1))
    old_class = sender["Point"]
    sender.run(POINT.replace("2 *", "3 *"))
    new = channel.send(sender["Point"](1))
    assert type(new) is not type(old)
    assert new.doubled().x == 3
    assert old.doubled().x == 2
    assert type(back.send(new)) is sender["Point"]
    assert type(back.send(old)) is old_class


def test_an_instance_of_a_class_that_was_redefined_before_it_ever_crossed(channel, back, sender):
    old_class, old = sender["Point"], sender["Point"](1)
    sender.run(POINT.replace("2 *", "3 *"))
    there = channel.send(old)
    assert there.doubled().x == 2
    assert type(back.send(there)) is old_class


def test_a_reader_with_its_own_definition_of_that_name_uses_it(channel, reader, sender):
    reader.run(POINT.replace("2 *", "10 *"))
    there = channel.send(sender["Point"](1))
    assert type(there) is reader["Point"]
    assert there.doubled().x == 10
    assert channel.fetched == []


def test_a_readers_mp_main_counts_as_its_main(channel, reader, sender, monkeypatch):
    module = types.ModuleType("__mp_main__")
    exec(POINT, module.__dict__)
    monkeypatch.setitem(sys.modules, "__mp_main__", module)
    assert type(channel.send(sender["Point"](1))) is module.Point


def test_foreign_names_in_the_readers_main_are_not_taken_for_the_definition(channel, reader):
    # What a fork server's __main__ may hold: another module's things under the same name.
    channel.sender.run("def deepcopy(x): return ('mine', x)")
    reader.run("from copy import deepcopy")
    assert channel.send(channel.sender["deepcopy"])(1) == ("mine", 1)


def test_an_instance_in_the_readers_main_is_not_taken_for_the_class(channel, reader, sender):
    # The singleton idiom: `Point = Point(0)`. An instance, too, has __module__ == "__main__".
    reader.run(POINT + "\nPoint = Point(0)")
    there = channel.send(sender["Point"](1))
    assert isinstance(type(there), type)
    assert there.x == 1


def test_a_function_of_the_readers_main_is_not_taken_for_the_class(channel, reader, sender):
    reader.run("def Point(x): return 'not it'")
    assert channel.send(sender["Point"](1)).x == 1


def test_a_class_of_main_in_a_large_message(channel, back, sender):
    array = numpy.arange(LARGE, dtype="u1")
    there = channel.send((sender["Point"](array), array))
    assert type(there[0]).__name__ == "Point"
    assert (there[0].x == array).all()
    assert there[0].x is there[1]
    assert type(back.send(there)[0]) is sender["Point"]


def test_two_readers_of_one_definition_store_each_build_it(channel, sender):
    packed = channel.pack(sender["Point"](1))
    for other in (Process(), Process()):
        with other:
            assert loads(packed, channel).doubled().x == 2


def test_what_failed_to_pack_does_not_spoil_the_next_message(channel, sender):
    with sender, pytest.raises(qmill.SerializationError):
        dumps([sender["Point"](1), threading.Lock()], channel.exports)
    assert channel.send(sender["Point"](2)).x == 2


def test_without_a_definition_the_error_names_it(channel, sender, reader):
    packed = channel.pack(sender["Point"](1))
    with reader, pytest.raises(qmill.SerializationError, match=r"__main__\.Point"):
        loads(packed)
    channel.definitions.clear()
    with reader, pytest.raises(qmill.SerializationError, match=r"__main__\.Point"):
        loads(packed, channel)


def test_inline_exports_need_no_channel_and_come_home(sender, reader, back):
    with sender:
        packed = dumps(sender["Point"](1), InlineExports())
    with reader:
        there = loads(packed)
    assert there.doubled().x == 2
    assert type(back.send(there)) is sender["Point"]


def test_without_exports_main_goes_by_value_whole(sender, reader):
    sender.run("STEP = 4\ndef step(x): return x + STEP")
    with sender:
        packed = dumps((sender["step"], sender["Point"](1)))
    with reader:
        step, point = loads(packed)
    assert step(1) == 5
    assert point.doubled().x == 2
