"""What scripts define works in jobs, or is refused at once by name.

The kinds are in `script_kinds`. They run as one script, with a `__main__` guard and without.
"""

from __future__ import annotations

import pytest

from .script_kinds import script

# Refused kinds whose error does not lead to the object yet.
UNCLEAR = {"a file for reading"}


@pytest.fixture(scope="module", params=["guarded", "without guard"])
def way(request):
    return request.param


@pytest.fixture(scope="module")
def outcomes(way, tmp_path_factory):
    path = tmp_path_factory.mktemp("kinds") / "script.py"
    return script.run(script.write(path, is_guarded=way == "guarded"), "qmill", timeout_s=100)


def test_all_kinds_were_tried(outcomes):
    assert len(outcomes) >= 180


def test_what_can_go_gives_the_right_result(outcomes, way):
    """PAINS 27: slots, caches and singledispatch of `__main__` cannot be sent."""
    wrong = {
        name: outcome.wrong
        for name, outcome in outcomes.items()
        if outcome.wrong and (way == "guarded" or not outcome.refused)
    }
    assert wrong == {}


def test_what_cannot_go_is_refused_by_name_with_a_remedy(outcomes, way):
    for name, outcome in outcomes.items():
        if way == "guarded" or not outcome.refused:
            continue  # a guarded script is imported, so all of it works
        assert outcome.wrong, f"{name} was not refused"
        error, text = outcome.wrong
        assert error == "SerializationError", (name, text)
        assert "start_method='fork'" in text, name
        if name not in UNCLEAR:
            assert f"'{outcome.refused}'" in text or f".{outcome.refused}," in text, (name, text)
