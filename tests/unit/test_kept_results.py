"""Results of a chunk's calls, as they are kept for the case that their worker dies."""

from __future__ import annotations

import os
import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from qmill import SerializationError, WorkerDied
from qmill.engines.api import ONE, SOME
from qmill.engines.learnt import Definitions
from qmill.engines.process import kept_results, protocol as packets
from qmill.packing import remote_errors, serialize
from tests.limits import _no_test_hangs  # noqa: F401

PERMIT = 7 | 3 << packets.ID_BITS
DEATH = WorkerDied(1, -9, 9)
CODECS = [True, False] if kept_results.HAS_CODEC else [False]


class Point:
    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return type(other) is Point and other.x == self.x


class Unsendable:
    def __reduce__(self) -> Any:
        raise TypeError("not this one")


def fail_to_rebuild() -> None:
    raise LookupError("not here")


class NotRebuilt:
    def __reduce__(self) -> Any:
        return fail_to_rebuild, ()


class Worker:
    """Keeps results, and knows what would be found of them at each moment of its life."""

    def __init__(self, codec: bool = True) -> None:
        self.exports = serialize.Exports()
        self.imports = Definitions()
        self.sent: list[kept_results.Part] = []
        self.moments: list[list[kept_results.Part]] = []
        self.keeper = kept_results.Keeper(self.exports, self._define, self._send, self._tell, codec)
        self.keeper.begin(PERMIT)

    def _tell(self, descriptor: int) -> None:
        self.memory = kept_results.open_memory(os.dup(descriptor))

    def _define(self) -> None:
        for key, packed in list(self.exports.pending.items()):
            self.imports.add(key + packed)
            self.exports.sent([key])

    def _send(self, kind: int, job: int, parts: list[Any]) -> None:
        assert job == PERMIT & packets.ID
        self.remember()
        self.sent.append((kind, b"".join(parts)))
        self.remember()

    def remember(self) -> None:
        self.moments.append(self.found())

    def found(self) -> list[kept_results.Part]:
        rest = kept_results.rest_of(self.memory, PERMIT)
        assert rest is not None
        return [*self.sent, *rest]

    def keep(self, *results: Any) -> None:
        for result in results:
            if isinstance(result, Exception):
                self.keeper.fail(result)
            else:
                self.keeper.keep(result)
            self.remember()

    def outcome(self, num_calls: int, death: WorkerDied | None = None) -> Any:
        return kept_results.Rebuilder(self.imports).outcome(self.found(), num_calls, death)


@pytest.fixture(params=CODECS, ids=lambda codec: "codec" if codec else "pickle")
def worker(request: pytest.FixtureRequest) -> Worker:
    return Worker(request.param)


RESULTS = [
    0,
    -(1 << 70),
    "text",
    None,
    1.5,
    b"",
    [1, [2, "x"]],
    {"a": (1, 2)},
    Decimal("0.1"),
    {3, 4},
    Point([1]),
    b"x" * 20_000,
    "y" * 300_000,
    bytearray(500_000),
]


def test_all_kinds_of_results_come_back(worker: Worker) -> None:
    worker.keep(*RESULTS)
    results, errors = worker.outcome(len(RESULTS))
    assert results == RESULTS
    assert list(map(type, results)) == list(map(type, RESULTS))
    assert errors == {}


def test_more_results_than_there_is_room_for(worker: Worker) -> None:
    worker.keep(*range(100_000, 130_000), *["z" * 1000] * 600)
    assert len(worker.sent) >= 2
    results, _ = worker.outcome(30_600)
    assert results == [*range(100_000, 130_000), *["z" * 1000] * 600]


def test_large_results_are_sent_at_once_and_by_themselves(worker: Worker) -> None:
    import numpy

    array = numpy.arange(10_000)
    worker.keep(1, array, 2)
    assert [kind for kind, _ in worker.sent] == [SOME, ONE]
    (one, found, two), _ = worker.outcome(3)
    assert (one, two, found.tolist()) == (1, 2, array.tolist())
    found[0] = 5  # it is no view of what somebody else reads


def test_failed_calls_are_told_by_their_places(worker: Worker) -> None:
    worker.keep(1, ValueError("no"), 3, KeyError("x" * 400_000), 5)
    results, errors = worker.outcome(5)
    assert results == [1, None, 3, None, 5]
    assert (errors[1].args, len(errors[3].args[0])) == (("no",), 400_000)
    assert type(errors[1].__cause__) is remote_errors.RemoteTraceback


def test_what_cannot_be_packed_is_refused_and_leaves_nothing(worker: Worker) -> None:
    worker.keep(1)
    with pytest.raises(SerializationError, match="not this one"):
        worker.keep(Unsendable())
    worker.keep(2)
    assert worker.outcome(2) == ([1, 2], {})


def test_what_cannot_be_rebuilt_fails_by_itself(worker: Worker) -> None:
    worker.keep(1, NotRebuilt(), 3)
    results, errors = worker.outcome(3)
    assert results == [1, None, 3]
    assert "not here" in str(errors[1])


@pytest.mark.skipif(not kept_results.HAS_CODEC, reason="needs the native codec")
def test_an_instance_of_a_class_that_is_not_there_fails_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Worker()
    worker.keep(1, Point(2), 3)
    monkeypatch.delattr(f"{__name__}.Point")
    results, errors = worker.outcome(3)
    assert results == [1, None, 3]
    assert list(errors) == [1]
    assert "Point" in str(errors[1])


def test_a_death_is_that_of_the_call_after_the_last_result(worker: Worker) -> None:
    worker.keep(1, 2)
    assert worker.outcome(5, DEATH) == ([1, 2, None], {2: DEATH})


def test_a_death_after_the_last_call_costs_nothing(worker: Worker) -> None:
    worker.keep(1, 2)
    assert worker.outcome(2, DEATH) == ([1, 2], {})


def test_only_the_attempt_that_was_begun_is_found(worker: Worker) -> None:
    worker.keep(1)
    assert kept_results.rest_of(worker.memory, PERMIT + 1) is None
    assert kept_results.rest_of(worker.memory, PERMIT + (1 << packets.ID_BITS)) is None
    assert kept_results.rest_of(None, PERMIT) is None
    worker.keeper.begin(PERMIT + 1)
    assert kept_results.rest_of(worker.memory, PERMIT) is None


pieces = st.one_of(
    st.integers(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.builds(Decimal, st.integers()),
    st.integers(1, 200_000).map(bytes),
    st.text(max_size=5).map(KeyError),
)


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=60, deadline=None)
@given(st.lists(pieces, max_size=25))
def test_at_each_moment_all_results_so_far_are_found(codec: bool, given_results: list[Any]) -> None:
    """Also while they are being sent, and just after that, when they are there twice."""
    worker = Worker(codec)
    worker.keep(*given_results)
    rebuilder, num_found = kept_results.Rebuilder(worker.imports), 0
    for moment in worker.moments:
        results, errors = rebuilder.outcome(moment, len(given_results), None)
        assert len(results) >= num_found
        num_found = len(results)
        expected = given_results[:num_found]
        found = [errors.get(place, result) for place, result in enumerate(results)]
        assert list(map(repr, found)) == list(map(repr, expected))
    assert num_found == len(given_results)


@pytest.mark.parametrize("seed", range(30))
def test_damage_is_told_for_each_call_and_never_raises(worker: Worker, seed: int) -> None:
    rng = random.Random(seed)
    worker.keep(*range(20), [1, "x"], Decimal(3), Point(1))
    (kind, part) = worker.found()[-1]
    for _ in range(20):
        damaged = bytearray(part)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        cut = bytes(damaged[: rng.randrange(len(damaged) + 1)])
        outcome = kept_results.Rebuilder(worker.imports).outcome([(kind, cut)], 23, None)
        assert len(outcome[0]) <= 23
        assert all(isinstance(error, Exception) for error in outcome[1].values())
