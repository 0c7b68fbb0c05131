"""Two hierarchies side by side: one row per pair of nodes, with times, verdicts, counts and what
differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.statistics import trimmed
from xsp.comparing.alignment import align, layer_of
from xsp.comparing.comparable import Comparable
from xsp.comparing.refusal import known_counts
from xsp.comparing.verdict import IMPROVED, REGRESSION, verdicts

SAME, CHANGED, APPEARED, VANISHED = "same", "changed", "appeared", "vanished"

_SIGNATURE = [
    "type",
    "calls",
    "parameter_bytes",
    "input_shapes",
    "output_shapes",
    "input_dtypes",
    "output_dtypes",
]
Sample = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Differences:
    """Pairs of nodes, and what they launch.

    `pairs` has level, phase, change, position (in which layers run in the candidate; those that
    vanished as the one before them), metric, a_ms, b_ms, ratio, low, high, p_value, verdict, and
    every column of the nodes with `_a` and `_b`; -1 in row_a or row_b where a side lacks the node.
    `launched` has a row for each kernel, copy, set, library call or operator of a pair of layers of
    which one side has more: pair, level, what ("kernel", "copy", "set", "library call",
    "operator"), name, a, b (how many).
    """

    pairs: pd.DataFrame
    launched: pd.DataFrame
    counts: list[str]


def differences(
    a: Comparable, b: Comparable, threshold: float, alpha: float, timed: bool
) -> Differences:
    """Align two profiles and compare every pair of nodes; times and verdicts are left out if not
    `timed`.
    """
    match = align(a.nodes, b.nodes)
    new = np.setdiff1d(np.arange(len(b.nodes)), match)
    row_a = np.r_[np.arange(len(a.nodes)), np.full(len(new), -1)]
    row_b = np.r_[match, new]
    pairs = _side_by_side(a.nodes, b.nodes, row_a, row_b)
    counts = known_counts(a, b)
    launched = _launched(a.nodes, b.nodes, pairs)
    in_both = [level for level in a.levels if level in b.levels]
    launched = launched[launched["level"].isin(in_both)]
    differs = _differ(pairs, (*_SIGNATURE, *counts)) | pairs.index.isin(launched["pair"])
    states = [row_a < 0, row_b < 0, differs]
    pairs["change"] = np.select(states, [APPEARED, VANISHED, CHANGED], SAME)
    pairs = _times(a, b, pairs, threshold, alpha, timed)
    return Differences(pairs, launched, counts)


def _differ(pairs: pd.DataFrame, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which pairs have another value in any of these columns."""
    before = pairs[[f"{name}_a" for name in names]].to_numpy(dtype=object)
    now = pairs[[f"{name}_b" for name in names]].to_numpy(dtype=object)
    return np.asarray((before != now).any(axis=1), dtype=np.bool_)


def _side_by_side(
    a: pd.DataFrame, b: pd.DataFrame, row_a: npt.NDArray[np.int64], row_b: npt.NDArray[np.int64]
) -> pd.DataFrame:
    left = a.reindex(row_a).reset_index(drop=True)
    right = b.reindex(row_b).reset_index(drop=True)
    there = row_a >= 0
    pairs = pd.DataFrame(
        {
            "row_a": row_a,
            "row_b": row_b,
            "level": left["level"].where(there, right["level"]),
            "phase": left["phase"].where(there, right["phase"]),
        }
    )
    pairs = pairs.join(left.drop(columns=["level", "phase"]).add_suffix("_a"))
    pairs = pairs.join(right.drop(columns=["level", "phase"]).add_suffix("_b"))
    return pairs.assign(position=_positions(pairs))


def _positions(pairs: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The candidate's order; what vanished comes half a step after the last layer before it that is
    still there.
    """
    both = pairs[
        (pairs["row_a"] >= 0) & (pairs["row_b"] >= 0) & (pairs["level"] == "LAYER")
    ].sort_values("order_a")
    before = (
        np.searchsorted(
            both["order_a"].to_numpy(), pairs["order_a"].fillna(0).to_numpy(), side="right"
        )
        - 1
    )
    known = np.r_[both["order_b"].to_numpy(np.float64), -1.0]
    after = known[np.where(before < 0, -1, before)] + 0.5
    return np.where(pairs["row_b"] >= 0, pairs["order_b"], after).astype(np.float64)


def _times(
    a: Comparable, b: Comparable, pairs: pd.DataFrame, threshold: float, alpha: float, timed: bool
) -> pd.DataFrame:
    """The pairs with the metric of the baseline (the candidate's for what appeared), both times and
    the verdict.

    A node that the host bounds is also compared by its time on the device, which counts where only
    that one changed: it costs nothing today, and all of it as soon as the host is faster. The
    reverse is not done, because the host's time in a node that the device bounds is mostly waiting
    for other nodes.
    """
    metric = pairs["metric_a"].where(pairs["row_a"] >= 0, pairs["metric_b"]).to_numpy(dtype=object)
    kept = pairs.drop(columns=["metric_a", "metric_b", "ci_ms_a", "ci_ms_b"])
    kept = kept.rename(columns={"ms_a": "a_ms", "ms_b": "b_ms"})
    if not timed:
        return kept.assign(a_ms=np.nan, b_ms=np.nan, metric=metric, **_blank(len(pairs)))
    own, on_device = [], []
    for path_a, path_b, name in zip(pairs["path_a"], pairs["path_b"], metric, strict=True):
        own.append(_samples(a, b, path_a, path_b, name))
        is_host = name == "host"
        on_device.append(_samples(a, b, path_a, path_b, "device") if is_host else (_NONE, _NONE))
    tests = pd.Series(_both(own).astype(np.int64) + _both(on_device))
    tests_of_level = tests.groupby(kept["level"].to_numpy()).transform("sum").to_numpy()
    found = _judged(own, tests_of_level, threshold, alpha)
    second = _judged(on_device, tests_of_level, threshold, alpha)
    hidden = ~found["verdict"].isin(_TELLING) & second["verdict"].isin(_TELLING)
    found[hidden] = second[hidden]
    # Where both sides have a sample, times are of one metric: a side's own summary may be of the
    # other.
    known = found["a_ms"].notna()
    for side in ("a_ms", "b_ms"):
        found[side] = found[side].where(known, kept[side])
    shown = np.where(hidden, "device", metric)
    return kept.drop(columns=["a_ms", "b_ms"]).assign(metric=shown).join(found)


_NONE: Sample = np.zeros(0)
_TELLING = (REGRESSION, IMPROVED)


def _blank(rows: int) -> dict[str, npt.NDArray[Any]]:
    numbers = {name: np.full(rows, np.nan) for name in ("ratio", "low", "high", "p_value")}
    return {**numbers, "verdict": np.full(rows, "", dtype=object)}


def _samples(
    a: Comparable, b: Comparable, path_a: object, path_b: object, metric: str
) -> tuple[Sample, Sample]:
    """Both sides' times; none where one side lacks the node."""
    there = isinstance(path_a, str) and isinstance(path_b, str)
    return (
        (a.sample(str(path_a), metric), b.sample(str(path_b), metric)) if there else (_NONE, _NONE)
    )


def _both(samples: Sequence[tuple[Sample, Sample]]) -> npt.NDArray[np.bool_]:
    return np.array([len(x) > 0 and len(y) > 0 for x, y in samples], dtype=bool)


def _judged(
    samples: Sequence[tuple[Sample, Sample]],
    tests: npt.NDArray[np.int64],
    threshold: float,
    alpha: float,
) -> pd.DataFrame:
    """a_ms, b_ms, ratio, low, high, p_value and verdict of each pair of samples; `tests` are made
    at its level.
    """
    table = pd.DataFrame({"a_ms": np.nan, "b_ms": np.nan, **_blank(len(samples))})
    sizes = np.array([(len(x), len(y)) for x, y in samples], dtype=np.int64).reshape(-1, 2)
    keys = np.column_stack([sizes, tests])
    for key in np.unique(keys[_both(samples)], axis=0):
        which = np.flatnonzero((keys == key).all(axis=1))
        x, y = (np.stack([samples[at][side] for at in which.tolist()], axis=1) for side in (0, 1))
        found = verdicts(x, y, threshold=threshold, alpha=alpha, nodes=int(key[2]))
        before = trimmed(x)[0]
        columns = [
            before,
            before * found.ratio,
            found.ratio,
            found.low,
            found.high,
            found.p_value,
            found.names,
        ]
        for name, values in zip(table.columns, columns, strict=True):
            table.loc[which, name] = values
    return table


def _launched(a: pd.DataFrame, b: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """What pairs of layers launch in unequal number."""
    counted = [
        _of_layers(nodes, pairs.loc[pairs[row] >= 0].set_index(row).index, side)
        for nodes, row, side in ((a, "row_a", "a"), (b, "row_b", "b"))
    ]
    for each, row in zip(counted, ("row_a", "row_b"), strict=True):
        place = pd.Series(pairs.index, index=pairs[row])
        each["pair"] = place[each["layer"].to_numpy()].to_numpy()
    keys = ["pair", "level", "what", "name"]
    found = (
        counted[0]
        .drop(columns="layer")
        .merge(counted[1].drop(columns="layer"), how="outer", on=keys)
    )
    found[["a", "b"]] = found[["a", "b"]].fillna(0).astype(np.int64)
    both = pairs.loc[found["pair"], ["row_a", "row_b"]].ge(0).all(axis=1).to_numpy()
    return found[both & (found["a"] != found["b"]).to_numpy()].reset_index(drop=True)


def _of_layers(nodes: pd.DataFrame, rows: pd.Index, side: str) -> pd.DataFrame:
    """How often each layer launches each kernel or makes each library call, in the order of the
    nodes.
    """
    deep = nodes["level"].isin(["OP", "LIBRARY", "KERNEL"]).to_numpy()
    layer = layer_of(nodes)
    here = nodes[deep & np.isin(layer, rows)]
    kinds = {
        "operator": here["level"] == "OP",
        "library call": here["level"] == "LIBRARY",
        "copy": here["copies"] > 0,
        "set": here["sets"] > 0,
    }
    what = np.select(list(kinds.values()), list(kinds), "kernel").astype(object)
    table = (
        here[["level", "name", "calls"]]
        .assign(layer=layer[here.index], what=what)
        .rename(columns={"calls": side})
    )
    sums: pd.DataFrame = (
        table.groupby(["layer", "level", "what", "name"], sort=False)[side].sum().reset_index()
    )
    return sums
