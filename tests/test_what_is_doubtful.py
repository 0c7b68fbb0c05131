"""What makes a profile doubtful, found in tables whose numbers are known: three rounds of four
rungs, three layers, five device operations of 560 µs in each deepest run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from captures import gpu_capture
from torch import nn

from xsp.analysis.correction import Correction
from xsp.analysis.correction.charges import Costs
from xsp.analysis.correction.closure import Closure
from xsp.doubts import Doubt, Slug, Stopped, StopReason
from xsp.measuring.doubts_about import (
    about_correction,
    about_hidden_generators,
    about_modified,
    about_other_calls,
    about_overlap,
    about_runs,
    about_several_gpus,
    about_shared,
    about_short_kernels,
    about_steps,
)
from xsp.types import Level

ASKED = Stopped(StopReason.ASKED, 3)
WORK = 5


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    """The synthetic capture's."""
    return dict(gpu_capture().tables)


def facts(doubts: list[Doubt], slug: Slug) -> Mapping[str, Any] | None:
    """What the one doubt of this kind says, None where there is none."""
    found = [doubt.facts for doubt in doubts if doubt.slug is slug]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_whole_precise_profile_has_no_doubts(tables: dict[str, pd.DataFrame]) -> None:
    """Latencies 0.1 % apart, nothing lost, every layer in every run."""
    assert about_runs(tables, ASKED, WORK) == []


@pytest.mark.parametrize(
    ("column", "slug", "fact"),
    [
        ("lost", Slug.LOST_RECORDS, "lost"),
        ("orphans", Slug.NO_LAUNCH, "activities"),
        ("unmatched", Slug.UNKNOWN_EVENTS, "events"),
    ],
)
def test_what_runs_lack_is_counted(
    column: str, slug: Slug, fact: str, tables: dict[str, pd.DataFrame]
) -> None:
    """Over all runs, one is enough."""
    runs = tables["runs"].copy()
    runs.loc[1, column] = 1
    assert facts(about_runs({**tables, "runs": runs}, ASKED, WORK), slug) == {fact: 1}
    runs.loc[7, column] = 3
    assert facts(about_runs({**tables, "runs": runs}, ASKED, WORK), slug) == {fact: 4}


def test_layers_that_did_not_happen_are_named(tables: dict[str, pd.DataFrame]) -> None:
    """By name with the runs they miss, most first; what is missing of them is no unknown event."""
    spans, runs = tables["spans"], tables["runs"].copy()
    in_layer = spans["level"] == Level.LAYER
    gone = (in_layer & (spans["detail"] == 2) & spans["run"].isin([1, 2])) | (
        in_layer & (spans["detail"] == 0) & (spans["run"] == 5)
    )
    runs["unmatched"] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    doubts = about_runs({**tables, "spans": spans[~gone], "runs": runs}, ASKED, WORK)
    assert facts(doubts, Slug.MISSING_LAYERS) == {
        "layers": 2,
        "named": {"fc": 2, "block.conv": 1},
        "runs": 9,
    }
    missing = facts(doubts, Slug.MISSING_LAYERS)
    assert missing is not None
    assert list(missing["named"]) == ["fc", "block.conv"]
    assert facts(doubts, Slug.UNKNOWN_EVENTS) is None


def test_rows_that_a_run_need_not_have_are_not_missing(tables: dict[str, pd.DataFrame]) -> None:
    """Layers that graphs run, and autograd nodes, those among them that graphs run too."""
    spans, layers = tables["spans"], tables["layers"].copy()
    gone = (spans["level"] == Level.LAYER) & (spans["detail"] == 2)
    for kind, of_graph in (("autograd", True), ("autograd", False), ("module", True)):
        layers.loc[2, "kind"] = kind
        layers["of_graph"] = [place == 2 and of_graph for place in range(len(layers))]
        doubts = about_runs({**tables, "spans": spans[~gone], "layers": layers}, ASKED, WORK)
        assert facts(doubts, Slug.MISSING_LAYERS) is None


def test_library_calls_that_did_not_happen_are_named(tables: dict[str, pd.DataFrame]) -> None:
    """By function with the runs they miss; a function that only timed runs called is not missing
    where it is not called.
    """
    spans, runs = tables["spans"], tables["runs"].copy()
    recorded = len(tables["library_calls"])
    calls = spans["level"] == Level.LIBRARY
    first = int(spans.loc[calls, "run"].min())
    gone = calls & (spans["detail"] == 0) & (spans["run"] == first)
    runs.loc[runs["run"] == first, "unmatched"] = int(gone.sum())
    fewer = {**tables, "spans": spans[~gone], "runs": runs}
    said = facts(about_runs(fewer, ASKED, WORK, recorded), Slug.MISSING_CALLS)
    assert said is not None
    assert said["named"] == {tables["library_calls"]["name"][0]: 1}
    assert facts(about_runs(fewer, ASKED, WORK, recorded), Slug.UNKNOWN_EVENTS) is None
    assert facts(about_runs(fewer, ASKED, WORK, 0), Slug.MISSING_CALLS) is None


def test_library_calls_of_a_capture_are_not_missing(tables: dict[str, pd.DataFrame]) -> None:
    """Where CUDA graphs are replayed, calls that no run makes are those of the structure run's
    capture; one that only some runs make is still missing from the others.
    """
    spans, runs = tables["spans"], tables["runs"]
    recorded = len(tables["library_calls"])
    nodes = pd.DataFrame({"span": [0], "graph": [3], "node": [1], "owner": ["unknown"]})
    calls = spans["level"] == Level.LIBRARY
    first = int(spans.loc[calls, "run"].min())
    never = calls & (spans["detail"] == 0)
    in_some = calls & (spans["detail"] == 1) & (spans["run"] == first)
    for gone, named in ((never, None), (in_some, {tables["library_calls"]["name"][1]: 1})):
        unmatched = spans[gone].groupby("run").size()
        counted = runs["unmatched"].add(runs["run"].map(unmatched).fillna(0).astype(int))
        fewer = {
            **tables,
            "spans": spans[~gone],
            "runs": runs.assign(unmatched=counted),
            "graph_nodes": nodes,
        }
        doubts = about_runs(fewer, ASKED, WORK, recorded)
        said = facts(doubts, Slug.MISSING_CALLS)
        assert (said and said["named"]) == named
        assert facts(doubts, Slug.UNKNOWN_EVENTS) is None


def test_latencies_that_are_not_known_are_said(tables: dict[str, pd.DataFrame]) -> None:
    """Where the interval is wider than 1 % of the latency, at rung M alone, with its half width."""
    runs = tables["runs"].copy()
    model = runs["deepest"] == "MODEL"
    runs.loc[~model, "latency_ns"] *= [1, 2, 3] * 3
    assert about_runs({**tables, "runs": runs}, ASKED, WORK) == []
    values = np.array([900_000, 1_000_000, 1_100_000])
    runs.loc[model, "latency_ns"] = values
    said = facts(about_runs({**tables, "runs": runs}, ASKED, WORK), Slug.IMPRECISE)
    assert said is not None
    assert said["half_width"] == pytest.approx(4.302653 * 1e5 / np.sqrt(3) / 1e6, rel=1e-4)
    one = about_runs({**tables, "runs": runs[runs["round"] == 0]}, ASKED, None)
    assert facts(one, Slug.IMPRECISE) == {"half_width": None}


def test_rounds_that_were_cut_short_are_said(tables: dict[str, pd.DataFrame]) -> None:
    """With why, instead of how wide the interval is."""
    stopped = Stopped(StopReason.INTERRUPTED, 3)
    said = facts(about_runs(tables, stopped, WORK), Slug.IMPRECISE)
    assert said is not None
    assert list(said) == ["stopped"]


def test_work_that_tracing_changes_is_said(tables: dict[str, pd.DataFrame]) -> None:
    """With the operations of a run without tracers, and the fewest and most with them."""
    assert facts(about_runs(tables, ASKED, 7), Slug.CHANGED_WORK) == {"untraced": 7, "traced": [5]}
    spans = tables["spans"]
    [last] = np.flatnonzero((spans["level"] == Level.KERNEL) & (spans["run"] == 11))[-1:]
    fewer = {**tables, "spans": spans.drop(index=last)}
    assert facts(about_runs(fewer, ASKED, WORK), Slug.CHANGED_WORK) == {
        "untraced": 5,
        "traced": [4, 5],
    }
    assert about_runs(fewer, ASKED, None) == []


def test_short_kernels_are_told_from_a_twentieth_on(tables: dict[str, pd.DataFrame]) -> None:
    """Kernels of which tracing is 5 %, where they have 5 % of the device's time and more."""
    # Of 560 µs the operation of 10 µs is 1.8 %, those of 10 and 50 µs are 10.7 %.
    assert about_short_kernels(tables, 2_000.0) == []
    [doubt] = about_short_kernels(tables, 3_000.0)
    assert doubt.facts["of_time"] == pytest.approx(60 / 560)
    assert doubt.facts["of_kernels"] == pytest.approx(2 / 5)
    assert doubt.facts["shorter_ns"] == pytest.approx(60_000)
    assert doubt.facts["added_ns"] == 3_000
    # A kernel of which tracing is 5 % exactly is none of the short ones.
    assert about_short_kernels(tables, 2_500.0) == []
    # What tracing adds is no whole number.
    assert about_short_kernels(tables, 2_500.02)[0].facts["of_kernels"] == pytest.approx(2 / 5)
    assert about_short_kernels({"spans": tables["spans"].iloc[:0]}, 3_000.0) == []


def test_several_gpus_are_told(tables: dict[str, pd.DataFrame]) -> None:
    """One GPU is none worth a word, two are counted."""
    assert about_several_gpus(tables) == []
    spans = tables["spans"].copy()
    spans.loc[spans.index[-1], "context"] = 2
    [doubt] = about_several_gpus({**tables, "spans": spans})
    assert doubt.facts == {"gpus": 2}


def test_what_did_not_happen_is_not_told() -> None:
    """Each is a doubt with its facts, or nothing."""
    assert about_overlap(0, serialized=True) == []
    assert about_overlap(1, serialized=True)[0].facts == {"activities": 1, "serialized": True}
    assert about_modified([]) == []
    assert about_modified(["x"])[0].facts == {"names": ["x"]}
    assert about_steps(0) == []
    assert about_steps(1)[0].facts == {"steps": 1}
    assert about_shared(()) == []
    assert about_shared({"torch's", "NumPy's"})[0].facts == {"generators": ["NumPy's", "torch's"]}
    assert about_other_calls({}) == []
    assert about_other_calls({"a": (1, 0), "b": (2, 3)})[0].facts == {
        "modules": 2,
        "name": "a",
        "untraced": 1,
        "traced": 0,
    }


def closure(error: float, half: float) -> Closure:
    return Closure(error, error - half, error + half, ())


def test_costs_that_take_most_of_events_are_named_where_the_correction_holds() -> None:
    """From a quarter of the events on."""
    shares = {"layer_ns": 0.25, "launch_ns": 0.24}
    good = Correction(Costs(), {"M/L": closure(0, 0.1)}, np.zeros((7, 7)), Costs(), shares)
    assert facts(about_correction(good), Slug.MOSTLY_TRACING) == {"shares": {"layer": 0.25}}
    bad = Correction(Costs(), {"M/L": closure(0.2, 0.1)}, np.zeros((7, 7)), Costs(), shares)
    assert facts(about_correction(bad), Slug.MOSTLY_TRACING) is None
    assert facts(about_correction(bad), Slug.UNCORRECTED) == {
        "of": "latency",
        "rung": "M/L",
        "error": 0.2,
        "low": 0.1,
        "high": pytest.approx(0.3),
    }
    assert about_correction(None) == []


def test_dropout_of_recurrent_layers_on_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only in training, with dropout, on a GPU: there cuDNN keeps the random state to itself."""
    dropping, on_cpu = nn.GRU(4, 4, 2, dropout=0.1), nn.GRU(4, 4, 2, dropout=0.1)
    single = nn.GRU(4, 4)
    for module in (dropping, single):
        monkeypatch.setattr(module, "parameters", lambda: iter([SimpleNamespace(is_cuda=True)]))
    names: dict[nn.Module, str] = {dropping: "a", single: "b", on_cpu: "c"}
    assert facts(about_hidden_generators(names), Slug.HIDDEN_GENERATOR) == {"names": ["a"]}
    dropping.eval()
    assert about_hidden_generators(names) == []
