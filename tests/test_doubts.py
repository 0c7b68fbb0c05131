"""Doubts and the end of the rounds are values; words are made of them at the edge."""

from __future__ import annotations

from typing import Any

import pytest
from quick import QUICK
from torch import nn, ones

import xsp
from xsp.doubts import Doubt, Slug, Stopped, StopReason
from xsp.words.doubts import end_of_rounds, sentence_of
from xsp.words.slugs import slug_of

FACTS: dict[Slug, dict[str, Any]] = {
    Slug.IMPRECISE: {"half_width": 0.05},
    Slug.CUT_SHORT: {"missing": "corrected times"},
    Slug.OUT_OF_TIME: {"missing": "bytes allocated per layer"},
    Slug.NOT_SERIALIZED: {"missing": ["KERNEL"]},
    Slug.UNSETTLED: {"runs": 30},
    Slug.LOST_RECORDS: {"lost": 3},
    Slug.NO_LAUNCH: {"activities": 3},
    Slug.UNKNOWN_EVENTS: {"events": 3},
    Slug.CHANGED_WORK: {"untraced": 9, "traced": [13]},
    Slug.OTHER_MODULES: {"modules": 2, "name": "a", "untraced": 1, "traced": 0},
    Slug.NOT_JOINED: {
        "level": "KERNEL",
        "runs": 1,
        "of": 20,
        "place": 12,
        "expected": "gemm",
        "found": None,
        "alike": False,
    },
    Slug.MODIFIED_IN_PLACE: {"names": ["a", "b", "c", "d"]},
    Slug.SHARED_GENERATORS: {"generators": ["NumPy's"]},
    Slug.HIDDEN_GENERATOR: {"names": ["lstm"]},
    Slug.SEVERAL_THREADS: {"threads": 4},
    Slug.CHANGED_CALL: {"difference": "a layer"},
    Slug.BACKWARD_IN_BLOCK: {},
    Slug.MISSING_CALLS: {"functions": 2, "named": {"cublasSgemm_v2": 3}, "runs": 5},
    Slug.MISSING_LAYERS: {"layers": 2, "named": {"fc": 3}, "runs": 5},
    Slug.UNCORRECTED: {"rung": "M/L", "error": 0.4, "low": 0.3, "high": 0.5},
    Slug.UNKNOWN_COSTS: {"share": 0.1, "half": 0.2},
    Slug.UNSHOWN_COSTS: {"levels": ["LIBRARY"]},
    Slug.MOSTLY_TRACING: {"shares": {"launch": 0.4}},
    Slug.STEPS_MADE: {"steps": 12},
    Slug.OTHER_STEPS: {"steps": 3, "made": 40, "kinds": 4, "named": {"inputs of 2x4": 2}},
    Slug.LEFT_OUT_CALLS: {"profiled": 16, "made": 20},
    Slug.SEVERAL_GPUS: {"gpus": 2},
    Slug.OVERLAP: {"activities": 4, "serialized": True},
    Slug.OTHER_LAUNCHES: {"before": 2, "beside": 3, "runs": 5},
    Slug.GRAPH_KERNELS: {
        "activities": 90,
        "size": 30,
        "place": 4,
        "expected": "gemm",
        "found": "relu",
    },
    Slug.SHORT_KERNELS: {
        "of_time": 0.5,
        "of_kernels": 0.5,
        "shorter_ns": 2e4,
        "added_ns": 1e3,
        "visible": 0.05,
    },
    Slug.CLOSURE: {"rung": "M/L", "error": 0.1, "low": 0.05, "high": 0.15},
}


@pytest.mark.parametrize("slug", list(Slug), ids=lambda slug: slug.value)
def test_every_doubt_has_a_sentence_that_ends_with_its_slug(slug: Slug) -> None:
    """A program finds the kind of a warning without reading English."""
    sentence = sentence_of(Doubt(slug, FACTS[slug]))
    assert slug_of(sentence) == slug.value
    assert len(sentence) > len(slug.value) + 10


def test_words_of_a_rule_of_ones_own_are_not_read() -> None:
    """A caller's own reason may speak of a budget or of an interruption: it is no complaint."""
    said = "within the carbon budget, never interrupted"
    prof = xsp.measure(
        nn.Linear(2, 2),
        ones(1, 2),
        **{**QUICK, "iterations": None},
        levels="M",
        stop=lambda runs: said if len(runs) >= 60 else None,
    )
    assert [each for each in prof.warnings if said in each] == []
    assert prof._capture.meta["stopped"] == said
    assert prof._capture.meta["stop"]["reason"] == "own-rule"


@pytest.mark.parametrize("reason", list(StopReason), ids=lambda reason: reason.value)
def test_every_end_has_a_sentence(reason: StopReason) -> None:
    """Each reason is worded, and only a spent budget and an interruption cut the rounds short."""
    stopped = Stopped(reason, 12, 0.02, 0.03, 0.01, said="enough")
    assert end_of_rounds(stopped)
    assert stopped.cut_short == (reason in {StopReason.BUDGET, StopReason.INTERRUPTED})


def test_a_capture_keeps_doubts_as_values(tmp_path: Any) -> None:
    """What a sentence says can be computed with after the capture is opened again."""
    prof = xsp.measure(nn.Linear(2, 2), ones(1, 2), **{**QUICK, "iterations": 1}, levels="M")
    meta = xsp.load(prof.save(tmp_path / "a.xsp"))._capture.meta
    assert meta["stop"] == {
        "reason": "asked",
        "rounds": 1,
        "half_width": None,
        "of_layers": None,
        "target": None,
        "said": "",
    }
    assert {"slug": "imprecise", "facts": {"half_width": None}} in meta["doubts"]
