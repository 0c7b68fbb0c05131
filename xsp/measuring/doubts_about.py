"""What makes a profile's numbers doubtful or incomplete: what `Profile.warnings` words.
docs/warnings.md explains each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from xsp.analysis.correction import Closure, Correction
from xsp.analysis.spans.assembly import Vocabulary
from xsp.analysis.spans.graph_layers import run_by_graphs
from xsp.analysis.spans.joining import NotJoined
from xsp.analysis.spans.outside import NO_LAYER_KIND
from xsp.analysis.spans.rungs import runs_of, spec_of
from xsp.analysis.spans.statistics import trimmed
from xsp.analysis.spans.sums import among
from xsp.doubts import Doubt, Slug, Stopped
from xsp.measuring.stopping import TARGET
from xsp.types import Level
from xsp.words.doubts import end_of_rounds
from xsp.words.numbers import known

MOST_NAMED = 3
"""Layers that a sentence names."""

VISIBLE = 0.05
"""Share of a time from which on an error in it is worth a sentence."""

MOSTLY_TRACING = 0.25
"""Share of the events of a kind of which more than half is tracing, from which on it is said."""


def about_runs(
    tables: dict[str, pd.DataFrame],
    stopped: Stopped,
    device_work: int | None,
    library_calls: int = 0,
) -> list[Doubt]:
    """What is missing or uncertain. `library_calls` is how many the structure run made, the first
    rows of that table.
    """
    runs = tables["runs"]
    doubts = _imprecise(runs, stopped)
    if lost := int(runs["lost"].sum()):
        doubts.append(Doubt.of(Slug.LOST_RECORDS, lost=lost))
    if orphans := int(runs["orphans"].sum()):
        doubts.append(Doubt.of(Slug.NO_LAUNCH, activities=orphans))
    missing = _missing_layers(tables)
    calls = _missing_calls(tables, library_calls)
    if unknown := int(runs["unmatched"].sum()) - int(missing.sum()) - int(calls.sum()):
        doubts.append(Doubt.of(Slug.UNKNOWN_EVENTS, events=unknown))
    if len(missing):
        traced = int(_traces(runs, Level.LAYER).sum())
        named = {str(name): int(number) for name, number in missing[:MOST_NAMED].items()}
        doubts.append(Doubt.of(Slug.MISSING_LAYERS, layers=len(missing), named=named, runs=traced))
    if "graph_nodes" in tables:
        # The structure run may have captured a graph: no replay makes the calls of a capture.
        calls = _missing_calls(tables, library_calls, once=True)
    if len(calls):
        traced = int(_traces(runs, Level.LIBRARY).sum())
        named = {str(name): int(number) for name, number in calls[:MOST_NAMED].items()}
        doubts.append(Doubt.of(Slug.MISSING_CALLS, functions=len(calls), named=named, runs=traced))
    return [*doubts, *_changed_work(tables, device_work)]


def _missing_layers(tables: dict[str, pd.DataFrame]) -> pd.Series[int]:
    """In how many runs that traced layers each layer call of the structure run did not happen, by
    name, most first; several calls of one name are summed.
    """
    layers = tables["layers"]
    # Rows of autograd nodes are those that a backward pass could run, not those that ran.
    not_called = layers["kind"].isin([NO_LAYER_KIND, "autograd"]) | run_by_graphs(layers)
    real = layers.index[~not_called]
    return _missing(tables, Level.LAYER, real, layers["name"])


def _missing_calls(
    tables: dict[str, pd.DataFrame], recorded: int, *, once: bool = False
) -> pd.Series[int]:
    """The same of library calls, by function; with `once` of those that happened in some run."""
    calls, spans = tables["library_calls"], tables["spans"]
    rows = calls.index[:recorded]
    if once:
        happened = spans.loc[spans["level"] == Level.LIBRARY, "detail"]
        rows = rows[rows.isin(happened)]
    return _missing(tables, Level.LIBRARY, rows, calls["name"])


def _missing(
    tables: dict[str, pd.DataFrame], level: Level, rows: pd.Index[int], names: pd.Series[str]
) -> pd.Series[int]:
    runs, spans = tables["runs"], tables["spans"]
    traced = np.sort(runs.loc[_traces(runs, level), "run"].to_numpy())
    mine = (spans["level"] == level).to_numpy() & among(spans["run"].to_numpy(), traced)
    run, detail = (spans[name].to_numpy()[mine] for name in ("run", "detail"))
    most = max(len(names), int(detail.max(initial=-1)) + 1)
    happened = np.zeros((len(traced), most), dtype=bool)
    happened[np.searchsorted(traced, run), detail] = True
    missing = pd.Series(len(traced) - happened.sum(axis=0)[rows], index=rows)
    by_name = missing[missing > 0].groupby(names).sum()
    return by_name.sort_values(ascending=False, kind="stable")


def _traces(runs: pd.DataFrame, level: Level) -> pd.Series[bool]:
    return runs["rung"].map(lambda rung: level in spec_of(str(rung)).levels).astype(bool)


def _imprecise(runs: pd.DataFrame, stopped: Stopped) -> list[Doubt]:
    if stopped.cut_short:
        return [Doubt.of(Slug.IMPRECISE, stopped=end_of_rounds(stopped))]
    latency, half = trimmed(runs.loc[runs["deepest"] == Level.MODEL.name, "latency_ns"])
    if half <= TARGET * latency:
        return []
    width = float(half / latency)
    return [Doubt.of(Slug.IMPRECISE, half_width=known(width))]


def _changed_work(tables: dict[str, pd.DataFrame], device_work: int | None) -> list[Doubt]:
    if device_work is None:
        return []
    spans, runs = tables["spans"], tables["runs"]
    counts = spans.loc[spans["level"] == Level.KERNEL, "run"].value_counts()
    deepest = runs_of(runs, Level.KERNEL)["run"]
    seen = sorted(set(counts.reindex(deepest, fill_value=0).astype(int)))
    if seen == [device_work]:
        return []
    return [Doubt.of(Slug.CHANGED_WORK, untraced=device_work, traced=sorted({seen[0], seen[-1]}))]


def about_not_joined(differences: Sequence[NotJoined], words: Vocabulary) -> list[Doubt]:
    """For each level of a separate ladder whose events could not be joined with the annotated
    runs.
    """
    return [_not_joined(each, words) for each in differences]


def _not_joined(difference: NotJoined, words: Vocabulary) -> Doubt:
    names = words.kernels if difference.level is Level.KERNEL else words.symbols
    expected, found = (
        None if index is None else str(names[index])
        for index in (difference.expected, difference.found)
    )
    return Doubt.of(
        Slug.NOT_JOINED,
        level=difference.level.name,
        runs=difference.runs,
        of=difference.of,
        place=difference.place,
        expected=expected,
        found=found,
        alike=difference.alike,
    )


def about_shared(generators: Collection[str]) -> list[Doubt]:
    """If not only the target drew from random generators."""
    if not generators:
        return []
    return [Doubt.of(Slug.SHARED_GENERATORS, generators=sorted(generators))]


def about_hidden_generators(names: Mapping[nn.Module, str]) -> list[Doubt]:
    """If recurrent layers among these modules draw for their dropout from a state that cuDNN keeps
    and torch neither shows nor sets.
    """
    found = [name for module, name in names.items() if _draws_in_cudnn(module)]
    return [Doubt.of(Slug.HIDDEN_GENERATOR, names=found)] if found else []


def _draws_in_cudnn(module: nn.Module) -> bool:
    if not isinstance(module, nn.RNNBase) or not module.training:
        return False
    on_gpu = any(parameter.is_cuda for parameter in module.parameters())
    has_dropout = module.dropout > 0 and module.num_layers > 1
    return has_dropout and on_gpu and torch.backends.cudnn.enabled


def about_other_calls(counts: Mapping[str, tuple[int, int]]) -> list[Doubt]:
    """If modules are called another number of times where layers are traced. `counts` has, by name,
    the calls without and with it.
    """
    if not counts:
        return []
    name, (untraced, traced) = next(iter(counts.items()))
    facts = {"modules": len(counts), "name": name, "untraced": untraced, "traced": traced}
    return [Doubt.of(Slug.OTHER_MODULES, **facts)]


def about_steps(steps: int) -> list[Doubt]:
    """If a plain callable was called that changes parameters, and nothing put them back."""
    return [Doubt.of(Slug.STEPS_MADE, steps=steps)] if steps else []


def about_modified(names: list[str]) -> list[Doubt]:
    """If the model writes to its inputs or parameters: each run starts from what the last one
    left.
    """
    return [Doubt.of(Slug.MODIFIED_IN_PLACE, names=names)] if names else []


def about_several_gpus(tables: dict[str, pd.DataFrame]) -> list[Doubt]:
    """If kernels ran on more than one GPU: each has a CUDA context of its own."""
    contexts = tables["spans"].loc[tables["spans"]["level"] == Level.KERNEL, "context"].nunique()
    return [Doubt.of(Slug.SEVERAL_GPUS, gpus=int(contexts))] if contexts > 1 else []


def about_overlap(activities: int, serialized: bool) -> list[Doubt]:
    """If kernels of different layers ran at the same time."""
    if not activities:
        return []
    return [Doubt.of(Slug.OVERLAP, activities=activities, serialized=serialized)]


def about_short_kernels(tables: dict[str, pd.DataFrame], added_ns: float) -> list[Doubt]:
    """If much of the device's time is in kernels so short that tracing is a visible part of their
    time.

    `added_ns` is what tracing adds to a short kernel, from repeated launches between two events
    (calibration.py).
    """
    spans = tables["spans"]
    duration = spans.loc[spans["level"] == Level.KERNEL, "duration_ns"]
    short = duration[duration < added_ns / VISIBLE]
    if not len(duration) or short.sum() < VISIBLE * duration.sum():
        return []
    return [
        Doubt.of(
            Slug.SHORT_KERNELS,
            of_time=float(short.sum() / duration.sum()),
            of_kernels=len(short) / len(duration),
            shorter_ns=added_ns / VISIBLE,
            added_ns=added_ns,
            visible=VISIBLE,
        )
    ]


def about_correction(correction: Correction | None) -> list[Doubt]:
    """What makes the corrected times doubtful, or why there are none."""
    if correction is None:
        return []
    return [
        *_about_closure(correction),
        *_about_unshown_costs(correction),
        *_about_mostly_tracing(correction),
    ]


def _about_closure(correction: Correction) -> list[Doubt]:
    """For each rung whose corrected latency is off by more than its interval, or once if it is off
    by too much.
    """
    for of, closures in (
        ("latency", correction.closure),
        ("host's time", correction.host_closure),
    ):
        if failing := [rung for rung, one in closures.items() if one.fails]:
            return [_off(Slug.UNCORRECTED, failing[-1], closures[failing[-1]], of=of)]
    if not correction.known:
        share, half = correction.taken
        return [Doubt.of(Slug.UNKNOWN_COSTS, share=share, half=half)]
    return [
        _off(Slug.CLOSURE, rung, one)
        for rung, one in correction.closure.items()
        if not one.by_chance
    ]


def _off(slug: Slug, rung: str, closure: Closure, **facts: str) -> Doubt:
    error = {"error": closure.error, "low": closure.low, "high": closure.high}
    return Doubt.of(slug, rung=rung, **error, **facts)


def _about_unshown_costs(correction: Correction) -> list[Doubt]:
    names = [level.name for level in correction.unshown]
    if not names or not correction.holds:
        return []
    return [Doubt.of(Slug.UNSHOWN_COSTS, levels=names)]


def _about_mostly_tracing(correction: Correction) -> list[Doubt]:
    shares = {
        name.removesuffix("_ns"): share
        for name, share in correction.mostly_tracing.items()
        if share >= MOSTLY_TRACING
    }
    if not shares or not correction.holds:
        return []
    return [Doubt.of(Slug.MOSTLY_TRACING, shares=shares)]
