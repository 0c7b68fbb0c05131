"""The whole stack for the page's script, which draws it and lists it: model, modules, layers,
library calls, kernels, in columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xsp.analysis.figures.palette import FAMILIES, OTHER, OUTER, node_families, text_on
from xsp.analysis.spans.tree import OWN_LEVEL, parent_rows
from xsp.summary.ranking import certain_shares
from xsp.types import Level
from xsp.words.distinct import distinct_names
from xsp.words.fold import fold_rows
from xsp.words.labels import printable, shapes, short_name, shorten

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

NODES = 4000
"""Nodes at most; beyond, the smallest shares are pooled into one for each parent."""
OPENED = 30
"""Rows that are unfolded at first."""
_FULL = 400
_KERNEL = 44
_NUMBERS = ("calls", "host_ms", "host_ci_ms", "latency_ms", "latency_ci_ms", "device_ms", "kernels")


def tree_data(prof: ProfileData) -> dict[str, Any]:
    """Per node, in order of the run: parent (a row, -1 for the model), name and title (codes of
    `texts`), kind (row of `kinds`), type, input, output (codes), the numbers of `Profile.tree`
    (null where unknown) and `hidden`, how many nodes a pooled one stands for. `open` are the rows
    that are unfolded at first.
    """
    tree = prof.tree()
    parents = parent_rows(tree)
    shares = certain_shares(tree).tolist()
    lines = fold_rows(parents, tree["share"].fillna(0.0).tolist(), NODES)
    rows = [line.row for line in lines]
    at = {row: place for place, row in enumerate(rows) if row >= 0}
    outer = [parents[line.row] if line.row >= 0 else line.parent for line in lines]
    shown = {line.row for line in fold_rows(parents, shares, OPENED) if line.row >= 0}
    opened = {at[parents[row]] for row in shown if parents[row] in at}
    texts = _Texts()
    columns = _columns(tree, parents, texts)
    pooled = _pooled(tree, parents, set(rows))
    data: dict[str, Any] = {
        name: [values[row] if row >= 0 else None for row in rows]
        for name, values in columns.items()
    }
    for position, line in enumerate(lines):
        if line.row < 0:
            data["name"][position] = texts.code(f"{line.hidden} more")
            data["latency_ms"][position] = _rounded(pooled.get(line.parent, 0.0))
    return {
        "parent": [at.get(row, -1) for row in outer],
        "hidden": [line.hidden if line.row < 0 else 0 for line in lines],
        "open": sorted(opened),
        "texts": texts.every,
        "kinds": _kinds(),
        **data,
    }


def _kinds() -> list[list[str]]:
    """Name, colour and the colour of text on it; the last is of what is of no kind."""
    looks = [*((each.name, each.colour) for each in (*FAMILIES, OTHER)), ("no layer", OUTER)]
    return [[name, colour, text_on(colour)] for name, colour in looks]


class _Texts:
    """Texts, each once."""

    def __init__(self) -> None:
        self.every: list[str] = []
        self._codes: dict[str, int] = {}

    def code(self, text: str) -> int:
        if text not in self._codes:
            self._codes[text] = len(self.every)
            self.every.append(text)
        return self._codes[text]


def _columns(tree: pd.DataFrame, parents: list[int], texts: _Texts) -> dict[str, list[Any]]:
    kernels = distinct_names(tree.loc[tree["level"] == Level.KERNEL.name, "name"], _KERNEL)
    names = tree["name"].tolist()
    found: dict[str, list[Any]] = {"name": [], "title": [], "type": [], "input": [], "output": []}
    columns = ("level", "name", "depth", "phase", "type", "source", "input_shapes", "output_shapes")
    each = zip(parents, *(tree[column].tolist() for column in columns), strict=True)
    for parent, level, name, depth, phase, kind, source, inputs, outputs in each:
        outer = names[parent] if depth > 1 else ""
        short = kernels.get(name) or short_name(level, name, outer)
        backward = phase == "backward" and level == Level.LAYER.name
        where = f", {source}" if source else ""
        found["name"].append(texts.code(printable(f"{short} (bwd)" if backward else short)))
        found["title"].append(texts.code(printable(shorten(name, _FULL) + where)))
        shown = "" if level == OWN_LEVEL else kind or level.lower()
        found["type"].append(texts.code(printable(shown)))
        found["input"].append(texts.code(printable(shapes(inputs))))
        found["output"].append(texts.code(printable(shapes(outputs))))
    families = (*FAMILIES, OTHER)
    kinds = node_families(tree["level"].tolist(), tree["type"].tolist(), parents)
    found["kind"] = [len(families) if one is None else families.index(one) for one in kinds]
    for name in _NUMBERS:
        found[name] = [_rounded(value) for value in tree[name].astype(float).tolist()]
    return found


def _pooled(tree: pd.DataFrame, parents: list[int], shown: set[int]) -> dict[int, float]:
    """What the nodes that are not shown cost, by their parent."""
    cost = tree["latency_ms"].fillna(0.0).to_numpy()
    sums: dict[int, float] = {}
    for row, parent in enumerate(parents):
        if row not in shown:
            sums[parent] = sums.get(parent, 0.0) + float(cost[row])
    return sums


def _rounded(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None
