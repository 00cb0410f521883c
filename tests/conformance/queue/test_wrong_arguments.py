"""Wrong arguments are refused."""

from __future__ import annotations

import pytest

import qmill

WAITING_METHODS = {
    "get": lambda queue, timeout: queue.get(timeout=timeout),
    "peek": lambda queue, timeout: queue.peek(timeout=timeout),
    "put": lambda queue, timeout: queue.put(1, timeout=timeout),
    "put_many": lambda queue, timeout: queue.put_many([1], timeout=timeout),
    "get_many": lambda queue, timeout: queue.get_many(1, timeout=timeout),
}


@pytest.mark.parametrize("method", WAITING_METHODS)
def test_a_negative_timeout_is_named(queue, method):
    for timeout in (-1, -0.001, float("-inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"timeout.*{timeout!r}"):
            WAITING_METHODS[method](queue, timeout)
    assert queue.empty()


@pytest.mark.parametrize("method", WAITING_METHODS)
def test_a_timeout_that_is_no_number_is_named(queue, method):
    for timeout in ("soon", "1", b"1", [], 1j):
        with pytest.raises(TypeError) as caught:
            WAITING_METHODS[method](queue, timeout)
        assert "timeout" in str(caught.value)
        assert repr(timeout) in str(caught.value)
    assert queue.empty()


@pytest.mark.parametrize("max_items", [0, -1])
def test_a_max_items_out_of_range_is_named(queue, max_items):
    queue.put(1)
    with pytest.raises(ValueError, match=f"max_items.*{max_items}"):
        queue.get_many(max_items)
    assert queue.qsize() == 1


@pytest.mark.parametrize("max_items", ["3", 1.0, None, True], ids=repr)
def test_a_max_items_that_is_no_int_is_named(queue, max_items):
    queue.put(1)
    with pytest.raises(TypeError, match=f"max_items.*{max_items!r}"):
        queue.get_many(max_items)
    assert queue.qsize() == 1


KINDS = ["thread", "process"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maxsize", ["3", 1.5, True, [2]], ids=repr)
def test_a_maxsize_that_is_no_int_is_named(kind, maxsize):
    with pytest.raises(TypeError) as caught:
        qmill.Queue(maxsize, kind=kind)
    assert "maxsize" in str(caught.value)
    assert repr(maxsize) in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maxsize", [2**63, 2**64, 10**30], ids=repr)
def test_a_maxsize_beyond_all_memory_is_named(kind, maxsize):
    with pytest.raises(ValueError, match=f"maxsize.*{maxsize}"):
        qmill.Queue(maxsize, kind=kind)


@pytest.mark.parametrize("kind", ["fibre", "", None, 3, ["thread"]], ids=repr)
def test_an_unknown_kind_is_named_with_what_is_accepted(kind):
    with pytest.raises(ValueError) as caught:
        qmill.Queue(kind=kind)
    for word in ("kind", repr(kind), "'process'", "'thread'"):
        assert word in str(caught.value)


BAD_NAMES = {
    "slash": "a/b",
    "nul": "a\0b",
    "empty": "",
    "too long": "n" * 201,
    "too many bytes": "ü" * 101,
    "here": ".",
    "above": "..",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_name_is_named(process_transport, name):
    with pytest.raises(ValueError, match="name") as caught:
        qmill.Queue(name=name)
    assert repr(name)[:30] in str(caught.value)


@pytest.mark.parametrize("name", [3, b"orders", ["orders"]], ids=repr)
def test_a_name_that_is_no_str_is_named(process_transport, name):
    with pytest.raises(TypeError) as caught:
        qmill.Queue(name=name)
    assert "name" in str(caught.value)
    assert repr(name) in str(caught.value)


def test_only_a_named_queue_can_be_persistent(process_transport):
    with pytest.raises(ValueError, match=r"persistent.*name|name.*persistent"):
        qmill.Queue(persistent=True)


def test_an_unknown_transport_is_named(monkeypatch):
    monkeypatch.setenv("QMILL_TRANSPORT", "pigeon")
    with pytest.raises(qmill.NotSupported, match=r"QMILL_TRANSPORT.*pigeon"):
        qmill.Queue()
