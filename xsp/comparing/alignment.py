"""Which node of one hierarchy is which of another, where layers were inserted, dropped, renamed or
replaced.

Layers are aligned as sequences, in the order in which they run, so that an inserted layer shifts
nothing after it. Then modules follow their layers, and library calls and kernels are matched by
name inside matched layers.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.spans.ancestors import nearest

Ints = npt.NDArray[np.int64]

_FEATURES = {
    "type": 4,
    "pattern": 2,
    "input_shapes": 2,
    "output_shapes": 2,
    "name": 1,
    "parameter_bytes": 1,
    "above": 1,
}
"""What two layers can have in common and what it counts for. The highest sum of an
alignment wins.
"""

_NUMBER = re.compile(r"(?<=[.:_])\d+(?=[.:]|$)|^\d+(?=[.:]|$)")
"""A place in a Sequential, or which call of a function it is: what an inserted neighbour
changes.
"""


def align(a: pd.DataFrame, b: pd.DataFrame) -> Ints:
    """For each row of `a` its row of `b`, or -1. Both are tables as of `node_facts`."""
    match = np.full(len(a), -1, dtype=np.int64)
    if len(a) and len(b):
        match[0] = 0
        _align_layers(a, b, match)
        _align_modules(a, b, match)
        for level in ("OP", "LIBRARY", "KERNEL"):
            _align_below(a, b, match, level)
        _align_kernels_of_layers(a, b, match)
    return match


def _align_layers(a: pd.DataFrame, b: pd.DataFrame, match: Ints) -> None:
    """Layers that are alike at the beginning and the end are pairs; between them the best alignment
    decides.
    """
    rows_a, rows_b = _in_order(a), _in_order(b)
    codes_a, codes_b = _codes(a, rows_a, b, rows_b)
    first = _common(codes_a, codes_b)
    last = _common(codes_a[first:][::-1], codes_b[first:][::-1])
    match[rows_a[:first]] = rows_b[:first]
    if last:
        match[rows_a[-last:]] = rows_b[-last:]
    middle_a, middle_b = slice(first, len(rows_a) - last), slice(first, len(rows_b) - last)
    pair_a, pair_b = _best(codes_a[middle_a], codes_b[middle_b]).T
    match[rows_a[middle_a][pair_a]] = rows_b[middle_b][pair_b]


def _in_order(nodes: pd.DataFrame) -> Ints:
    rows = np.flatnonzero((nodes["level"] == "LAYER").to_numpy())
    return rows[np.argsort(nodes["order"].to_numpy()[rows], kind="stable")]


def _codes(a: pd.DataFrame, rows_a: Ints, b: pd.DataFrame, rows_b: Ints) -> tuple[Ints, Ints]:
    """One column of integers per feature, and the phase, equal where the two tables agree."""
    both = [_features(a, rows_a), _features(b, rows_b)]
    every = pd.concat(both, ignore_index=True)
    columns = [pd.factorize(every[name])[0] for name in (*_FEATURES, "phase")]
    codes = np.stack(columns, axis=1).astype(np.int64)
    in_a = len(rows_a)
    return codes[:in_a], codes[in_a:]


def _features(nodes: pd.DataFrame, rows: Ints) -> pd.DataFrame:
    layers = nodes.iloc[rows]
    above = nodes["name"].to_numpy(dtype=object)[layers["parent"].to_numpy()]
    return layers.assign(
        pattern=[pattern(name) for name in layers["name"]],
        above=np.where(layers["parent"] == 0, "", above),
    )[[*_FEATURES, "phase"]]


def pattern(name: str) -> str:
    """`layers.3.fc1` as `layers.#.fc1`, `block::add_1` as `block::add`."""
    head, colons, function = name.rpartition("::")
    if colons:
        return f"{_NUMBER.sub('#', head)}::{re.sub(r'_[0-9]+$', '', function)}"
    return _NUMBER.sub("#", name)


def _common(a: Ints, b: Ints) -> int:
    """How many rows at the beginning are the same."""
    length = min(len(a), len(b))
    different = np.flatnonzero((a[:length] != b[:length]).any(axis=1))
    return int(different[0]) if len(different) else length


def _best(a: Ints, b: Ints) -> Ints:
    """Pairs of rows of the alignment with the highest sum of similarities (Needleman and Wunsch,
    gaps are free).

    A row at a time: with free gaps the recurrence along a row is a running maximum.
    """
    if not len(a) or not len(b):
        return np.zeros((0, 2), dtype=np.int64)
    score = np.zeros(len(b) + 1, dtype=np.int64)
    steps = np.full((len(a), len(b)), _SKIP_B, dtype=np.int8)
    for place, row in enumerate(a):
        similar = _similarity(row, b)
        paired = np.where(similar > 0, score[:-1] + similar, -1)
        best = np.maximum.accumulate(np.r_[0, np.maximum(paired, score[1:])])
        steps[place][score[1:] == best[1:]] = _SKIP_A
        steps[place][(paired == best[1:]) & (similar > 0)] = _PAIR
        score = best
    return _walk_back(steps)


_SKIP_B, _PAIR, _SKIP_A = 0, 1, 2
"""How the best alignment up to two rows ends."""


def _walk_back(steps: npt.NDArray[np.int8]) -> Ints:
    """The pairs of the best alignment, from its end to its beginning and turned round."""
    pairs = []
    i, j = steps.shape[0] - 1, steps.shape[1] - 1
    while i >= 0 and j >= 0:
        step = steps[i, j]
        if step == _PAIR:
            pairs.append((i, j))
        if step != _SKIP_B:
            i -= 1
        if step != _SKIP_A:
            j -= 1
    return np.array(pairs[::-1], dtype=np.int64).reshape(-1, 2)


_AT = {name: at for at, name in enumerate((*_FEATURES, "phase"))}
_WEIGHTS = np.array([*_FEATURES.values(), 0], dtype=np.int64)


def _similarity(row: Ints, others: Ints) -> Ints:
    """0 where two layers cannot be the same: another phase; neither type nor name; a type alone."""
    same = others == row
    type_, name = same[:, _AT["type"]], same[:, _AT["name"]]
    shapes = same[:, _AT["input_shapes"]] & same[:, _AT["output_shapes"]]
    possible = same[:, _AT["phase"]] & (
        (type_ & (same[:, _AT["pattern"]] | shapes)) | (name & ~type_)
    )
    return np.where(possible, same @ _WEIGHTS, 0)


def _align_modules(a: pd.DataFrame, b: pd.DataFrame, match: Ints) -> None:
    """Modules go where most of their layers went; of modules without matched layers, those of the
    same name.
    """
    votes: Counter[tuple[int, int]] = Counter()
    matched_layers = (a["level"] == "LAYER").to_numpy() & (match >= 0)
    for layer in np.flatnonzero(matched_layers).tolist():
        other_layer = int(match[layer])
        votes.update(zip(_above(a, layer), _above(b, other_layer), strict=False))
    taken: set[int] = set()
    for (mine, other), _ in sorted(votes.items(), key=_most_votes_first):
        if match[mine] < 0 and other not in taken:
            match[mine] = other
            taken.add(other)
    by_name = {name: row for row, name in _modules(b) if row not in taken}
    for row, name in _modules(a):
        if match[row] < 0 and name in by_name:
            match[row] = by_name[name]


def _most_votes_first(vote: tuple[tuple[int, int], int]) -> tuple[int, tuple[int, int]]:
    pair, count = vote
    return -count, pair


def _above(nodes: pd.DataFrame, row: int) -> list[int]:
    """The modules around a node, outermost first."""
    parents = nodes["parent"].to_numpy()
    found, at = [], int(parents[row])
    while at > 0:
        found.append(at)
        at = int(parents[at])
    return found[::-1]


def _modules(nodes: pd.DataFrame) -> list[tuple[int, str]]:
    rows = np.flatnonzero((nodes["level"] == "MODULE").to_numpy())
    return list(
        zip(rows.tolist(), nodes["name"].to_numpy(dtype=object)[rows].tolist(), strict=True)
    )


def _align_below(a: pd.DataFrame, b: pd.DataFrame, match: Ints, level: str) -> None:
    """Nodes of a level whose parents are matched, by name; operators lie in operators."""
    own = np.array(a["level"] == level)
    parents = a["parent"].to_numpy()
    while (ready := own & (match < 0) & (match >= 0)[parents]).any():
        _align_children(a, b, match, level, ready)
        if (match[ready] < 0).all():
            return
        own &= ~ready


def _align_children(
    a: pd.DataFrame, b: pd.DataFrame, match: Ints, level: str, chosen: npt.NDArray[np.bool_]
) -> None:
    left = a[chosen]
    keys = pd.DataFrame(
        {"parent": match[left["parent"].to_numpy()], "name": left["name"], "row": left.index}
    )
    right = b.loc[b["level"] == level, ["parent", "name"]].reset_index(names="other")
    found = keys.merge(right, on=["parent", "name"])
    match[found["row"].to_numpy(np.int64)] = found["other"].to_numpy(np.int64)


def _align_kernels_of_layers(a: pd.DataFrame, b: pd.DataFrame, match: Ints) -> None:
    """Kernels that are left, by name in the same layer: another library call, or none, may have
    launched them.
    """
    taken = np.zeros(len(b), dtype=bool)
    taken[match[match >= 0]] = True
    left = _unmatched_kernels(a, match < 0)
    left["layer"] = match[left["layer"].to_numpy(np.int64)]
    found = left[left["layer"] >= 0].merge(
        _unmatched_kernels(b, ~taken), on=["layer", "name"], suffixes=("", "_b")
    )
    found = found.drop_duplicates("row").drop_duplicates("row_b")
    match[found["row"].to_numpy(np.int64)] = found["row_b"].to_numpy(np.int64)


def _unmatched_kernels(nodes: pd.DataFrame, free: npt.NDArray[np.bool_]) -> pd.DataFrame:
    rows = np.flatnonzero((nodes["level"] == "KERNEL").to_numpy() & free)
    return pd.DataFrame(
        {
            "row": rows,
            "name": nodes["name"].to_numpy(dtype=object)[rows],
            "layer": layer_of(nodes)[rows],
        }
    )


def layer_of(nodes: pd.DataFrame) -> npt.NDArray[Any]:
    """The row of the layer around each operator, library call and kernel; the row itself for
    others.
    """
    parents, level = nodes["parent"].to_numpy(), nodes["level"].to_numpy(dtype=object)
    return nearest(parents, ~np.isin(level, ["OP", "LIBRARY", "KERNEL"]))
