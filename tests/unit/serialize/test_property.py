"""Any object, by Hypothesis."""

from __future__ import annotations

import collections

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from qmill.packing import serialize
from qmill.packing.serialize import Exports, InlineExports, dumps, loads

from .channel import there_and_back

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from([Ellipsis, int, len, "__main__", b"__main__", "\x80"])
)
hashables = st.recursive(
    atoms,
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)


@st.composite
def graphs(draw):
    """A nested object with shared references and cycles."""
    nodes = [[], {}, set(), bytearray(draw(st.binary(max_size=20)))]
    for _ in range(draw(st.integers(0, 8))):
        target = draw(st.sampled_from(nodes))
        if isinstance(target, set):
            target.add(draw(hashables))
            continue
        if isinstance(target, bytearray):
            continue
        child = draw(
            st.sampled_from(nodes)
            | hashables
            | st.builds(list)
            | st.builds(dict)
            | st.builds(lambda node, leaf: (node, leaf), st.sampled_from(nodes), hashables)
        )
        if isinstance(child, (list, dict)) and not any(child is node for node in nodes):
            nodes.append(child)
        if isinstance(target, list):
            target.append(child)
        else:
            target[draw(hashables)] = child
    return nodes


def assert_same_shape(one, other):
    """Compare two object graphs: types, values, and which references are to one object."""
    pairs, todo = {}, [(one, other)]
    while todo:
        left, right = todo.pop()
        assert type(left) is type(right)
        if not isinstance(left, (list, dict, set, bytearray, tuple)):
            assert left == right
            continue
        if not isinstance(left, tuple):  # pickle may make two equal tuples of one, and does not
            if id(left) in pairs:
                assert pairs[id(left)] == id(right)
                continue
            assert id(right) not in pairs.values()
            pairs[id(left)] = id(right)
        if isinstance(left, (set, bytearray)):
            assert left == right
            continue
        assert len(left) == len(right)
        if isinstance(left, dict):
            assert list(left) == list(right)
            left, right = left.values(), right.values()
        todo += zip(left, right, strict=True)


@pytest.mark.parametrize("way", ["plain", "channel", "inline"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(obj=graphs())
def test_any_nested_object_round_trips(way, obj):
    exports = {"plain": None, "channel": Exports(), "inline": InlineExports()}[way]
    assert_same_shape(obj, loads(dumps(obj, exports)))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(obj=graphs())
def test_any_nested_object_round_trips_beside_a_closure(obj):
    same, function = there_and_back((obj, lambda: obj))
    assert function() is same
    assert_same_shape(obj, same)


@pytest.mark.parametrize("more", [None, lambda: None], ids=["plain", "with care"])
def test_types_may_be_reduced_in_another_way(more):
    reducers = {collections.deque: lambda items: (sorted, (tuple(items),))}
    items = collections.deque([3, 1, 2])
    parts = serialize.dump_parts((items, {"a": items}, more), reducers=reducers)
    first, second, _ = serialize.loads(b"".join(parts))
    assert first == [1, 2, 3]
    assert second["a"] is first
    parts = serialize.dump_parts((items, more))
    assert serialize.loads(b"".join(parts))[0] == items
