"""The whole stack in one figure: an icicle of model, modules, layers, library calls and kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from xsp.analysis.figures.labels import hover, kernel_label, layer_label, safe
from xsp.analysis.figures.palette import IDLE, OUTER, node_families, text_on
from xsp.analysis.figures.theme import MARKS, NO_LAYERS, Figure, empty, figure
from xsp.analysis.spans.tree import parent_rows
from xsp.types import Level
from xsp.words import numbers
from xsp.words.fold import Line, fold_rows
from xsp.words.labels import short_name

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_ROWS = 7
"""Levels drawn at once; a click shows deeper ones."""
_ON_GPU = (
    "Width: a node's part of the latency, that is the GPU's busy time for it and the idle time "
    "that it causes."
)
_ON_HOST = "Width: the host's time; no kernels were traced."
_OPEN = " Click a node to open it, the top row to go back."


def hierarchy(profile: ProfileData) -> Figure:
    """The model's latency divided among modules and layers, and below each layer its library calls
    and kernels.

    Every node is as wide as what it costs the latency (`latency_ms` of `Profile.tree`); what lies
    between layers is a node of its own.
    """
    title = "The stack: model, modules, layers, library calls, kernels"
    tree = profile.tree()
    records: list[dict[str, Any]] = tree.to_dict("records")  # type: ignore[assignment] # keys are column names
    parents = parent_rows(tree)
    times = np.nan_to_num(tree["latency_ms"].to_numpy(dtype=float))
    if not times[0] > 0:
        return empty(title, NO_LAYERS)
    lines = fold_rows(parents, (times / times[0]).tolist(), MARKS - 2)
    nodes = _Nodes(records, parents, times, lines)
    note = (_ON_GPU if tree["device_ms"].notna().any() else _ON_HOST) + _OPEN
    if len(lines) < len(records):
        note += f" Of {len(records)} nodes the {len(lines)} largest are drawn, the rest pooled."
    drawn = figure(title, note, height=520)
    drawn.update_layout(
        margin={"l": 12, "r": 12, "b": 12}, uniformtext={"minsize": 10, "mode": "hide"}
    )
    return drawn.add_icicle(**nodes.trace())


@dataclass(frozen=True)
class _Node:
    key: str
    parent: str
    label: str
    hover: str
    time: float
    colour: str


class _Nodes:
    """Nodes of the icicle, in order. A parent is as wide as its children and what it has besides
    them.
    """

    def __init__(
        self,
        records: list[dict[str, Any]],
        parents: list[int],
        times: npt.NDArray[np.float64],
        lines: list[Line],
    ) -> None:
        self._records, self._parents, self._times = records, parents, times
        kinds = node_families(
            [record["level"] for record in records],
            [record["type"] for record in records],
            parents,
        )
        self._colours = [kind.colour if kind is not None else OUTER for kind in kinds]
        self._nodes: list[_Node] = []
        shown = {line.row for line in lines}
        self._pooled: dict[int, float] = {}
        for row, above in enumerate(parents):
            if row not in shown:
                self._pooled[above] = self._pooled.get(above, 0.0) + float(times[row])
        for line in lines:
            self._add_pooled(line) if line.row < 0 else self._add_row(line.row)

    def _add_pooled(self, line: Line) -> None:
        label = f"{line.hidden} more"
        self._append(
            f"rest {line.parent}",
            str(line.parent),
            label,
            f"<b>{label}</b>",
            self._pooled[line.parent],
            IDLE,
        )

    def _add_row(self, row: int) -> None:
        record, above = self._records[row], self._parents[row]
        label = _label(record, self._records[above]["name"] if above > 0 else "")
        parent = str(above) if above >= 0 else ""
        self._append(
            str(row), parent, label, _what(record), float(self._times[row]), self._colours[row]
        )

    def _append(
        self, key: str, parent: str, label: str, what: str, time: float, colour: str
    ) -> None:
        share = (
            f"{numbers.milliseconds(time)} ms, {numbers.percent(time / self._times[0])} of the "
            "whole"
        )
        self._nodes.append(_Node(key, parent, label, hover(what, share), time, colour))

    def trace(self) -> dict[str, Any]:
        """Arguments of `add_icicle`; values are what a node has besides its children, never below
        zero.
        """
        below: dict[str, float] = {}
        own: dict[str, float] = {}
        for node in reversed(self._nodes):
            inner = below.get(node.key, 0.0)
            own[node.key] = max(node.time - inner, 0.0)
            below[node.parent] = below.get(node.parent, 0.0) + max(node.time, inner)
        return {
            "ids": [node.key for node in self._nodes],
            "parents": [node.parent for node in self._nodes],
            "labels": [node.label for node in self._nodes],
            "values": [own[node.key] for node in self._nodes],
            "hovertext": [node.hover for node in self._nodes],
            "hoverinfo": "text",
            "branchvalues": "remainder",
            "sort": False,
            "tiling": {"orientation": "v"},
            "maxdepth": _ROWS,
            "leaf": {"opacity": 1},
            "textfont": {
                "size": 12,
                "color": [text_on(node.colour) for node in self._nodes],
            },
            "pathbar": {"textfont": {"color": text_on(OUTER)}},
            "marker": {
                "colors": [node.colour for node in self._nodes],
                "pattern": {
                    "shape": ["/" if node.colour == IDLE else "" for node in self._nodes],
                    "solidity": 0.12,
                    "size": 9,
                    "fgcolor": "#3a4048",
                    "fillmode": "replace",
                    "bgcolor": IDLE,
                },
            },
        }


def _label(record: dict[str, Any], above: str) -> str:
    if record["level"] == Level.KERNEL.name:
        return kernel_label(record["name"])
    return layer_label(short_name(record["level"], record["name"], above), record["phase"])


def _what(record: dict[str, Any]) -> str:
    label = (
        kernel_label(record["name"], 110)
        if record["level"] == Level.KERNEL.name
        else layer_label(record["name"], record["phase"], 110)
    )
    return f"<b>{label}</b><br>{safe(record['type'] or record['level'].lower())}"
