"""When corrected times are called doubtful: how far the latency and the host's time may be off, and
how well the costs must be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from xsp.analysis.correction import Correction
from xsp.analysis.correction.charges import Costs
from xsp.analysis.correction.closure import Closure
from xsp.analysis.spans.assembly import Vocabulary
from xsp.analysis.spans.joining import NotJoined
from xsp.doubts import Slug
from xsp.measuring.doubts_about import about_correction, about_hidden_generators, about_not_joined
from xsp.types import Level


def closure(error: float, half: float) -> Closure:
    """A closure error with half the width of its interval."""
    return Closure(error, error - half, error + half, ())


def correction(**known: Any) -> Correction:
    """A correction with a closure of two rungs, and what else is known."""
    given: dict[str, Any] = {"closure": {"M/L": closure(0.0, 0.01), "M/L/Lib": closure(0.0, 0.01)}}
    return Correction(Costs(), spread=np.zeros((7, 7)), **given | known)


def said(given: Correction) -> dict[Slug, Mapping[str, Any]]:
    """The facts of what is doubtful."""
    doubts = about_correction(given)
    found = {doubt.slug: doubt.facts for doubt in doubts}
    assert len(found) == len(doubts)
    return found


@pytest.mark.parametrize(
    ("error", "half", "fails"),
    [
        (0.1, 0.1, False),
        (-0.1, 0.1, False),
        (0.101, 0.2, True),
        (-0.101, 0.2, True),
        (0.02, 0.01, False),
        (-0.02, 0.01, False),
        (0.021, 0.01, True),
        (-0.021, 0.01, True),
        (0.021, 0.021, False),
    ],
)
def test_errors_beyond_chance_fail_from_two_per_cent(
    error: float, half: float, fails: bool
) -> None:
    """An error beyond chance may be 2 %, one that chance explains 10 %; the bounds are good."""
    given = correction(closure={"M/L": closure(error, half)})
    assert (Slug.UNCORRECTED in said(given)) is fails
    assert given.closes is not fails
    assert given.holds is not fails


def test_the_deepest_rung_that_fails_is_told() -> None:
    """One sentence, of the last rung that does not close, with its interval."""
    rungs = {
        "M/L": closure(0.3, 0.1),
        "M/L/Lib": closure(-0.4, 0.1),
        "M/L/Lib/K": closure(0.0, 0.1),
    }
    assert said(correction(closure=rungs)) == {
        Slug.UNCORRECTED: {
            "of": "latency",
            "rung": "M/L/Lib",
            "error": -0.4,
            "low": pytest.approx(-0.5),
            "high": pytest.approx(-0.3),
        }
    }


def test_the_hosts_time_has_to_close_too() -> None:
    """Where the latency closes and the host's time does not, that is told; where both do not, the
    latency.
    """
    off = {"M/L": closure(0.5, 0.1)}
    given = correction(host_closure=off)
    assert said(given)[Slug.UNCORRECTED]["of"] == "host's time"
    assert given.closes
    assert not given.holds
    both = correction(closure=off, host_closure=off)
    assert said(both)[Slug.UNCORRECTED]["of"] == "latency"


def test_small_errors_beyond_chance_are_told_of_each_rung() -> None:
    """A correction that is used although chance does not explain its error says by how much."""
    rungs = {"M/L": closure(0.015, 0.01), "M/L/Lib": closure(0.01, 0.01)}
    assert said(correction(closure=rungs)) == {
        Slug.CLOSURE: {
            "rung": "M/L",
            "error": 0.015,
            "low": pytest.approx(0.005),
            "high": pytest.approx(0.025),
        }
    }
    both = {"M/L": closure(0.015, 0.01), "M/L/Lib": closure(-0.015, 0.01)}
    doubts = about_correction(correction(closure=both))
    assert [doubt.facts["rung"] for doubt in doubts] == ["M/L", "M/L/Lib"]


def test_costs_must_be_known_to_half_of_them() -> None:
    """Half the interval of what all tracers took may be half of it, or 2 % of the latency."""
    for share, half in ((0.2, 0.1), (0.01, 0.02), (0.0, 0.0)):
        assert said(correction(taken=(share, half))) == {}
    for share, half in ((0.2, 0.11), (0.01, 0.021)):
        given = correction(taken=(share, half))
        assert said(given) == {Slug.UNKNOWN_COSTS: {"share": share, "half": half}}
        assert not given.holds
        assert given.closes


def test_costs_that_the_rungs_do_not_show_are_told_where_the_correction_holds() -> None:
    """By level; where corrected times are not used it does not matter."""
    unshown = (Level.LIBRARY, Level.KERNEL)
    facts = {"levels": ["LIBRARY", "KERNEL"]}
    assert said(correction(unshown=unshown)) == {Slug.UNSHOWN_COSTS: facts}
    failing = said(correction(unshown=unshown, closure={"M/L": closure(0.5, 0.1)}))
    assert set(failing) == {Slug.UNCORRECTED}


# ---- events that could not be joined ----


def not_joined(level: Level, expected: int | None, found: int | None) -> NotJoined:
    return NotJoined(level, 2, 20, 3, 12, expected, found, alike=True)


def test_events_that_could_not_be_joined_are_named() -> None:
    """By the names of the level: kernels by theirs, library calls by their functions; what is
    missing has none.
    """
    words = Vocabulary([], [], {}, [], ["gemm", "axpy"], str, ["sin", "cos"], lambda *_: "")
    differences = [not_joined(Level.KERNEL, 1, 0), not_joined(Level.LIBRARY, 0, None)]
    kernel, library = (doubt.facts for doubt in about_not_joined(differences, words))
    assert kernel == {
        "level": "KERNEL",
        "runs": 2,
        "of": 20,
        "place": 12,
        "expected": "cos",
        "found": "sin",
        "alike": True,
    }
    assert (library["expected"], library["found"]) == ("gemm", None)
    assert about_not_joined([], words) == []


def test_a_program_without_recurrent_layers_hides_no_generator() -> None:
    """Nothing is told of a model that has none."""
    assert about_hidden_generators({}) == []
