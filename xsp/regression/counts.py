"""Counts of one run held against a baseline's: they have no noise, and are compared exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from xsp.comparing.comparable import Comparable
from xsp.comparing.refusal import known_counts

if TYPE_CHECKING:
    from xsp.regression.baselines import Baseline

LAYERS, GRAPH_BREAKS = "layers", "graph_breaks"
_WORDS = {
    "copied_bytes": "bytes copied",
    "library_calls": "library calls",
    "synchronizations": "waits of the host for the device",
    "allocated_bytes": "bytes allocated",
    GRAPH_BREAKS: "graph breaks",
}
_SHOWN = 4
_SAME_PROGRAM = ("gpu", "cuda", "cudnn", "torch")
"""What decides which kernels and library calls a program comes to; without a GPU the CPU takes its
place.
"""


@dataclass(frozen=True)
class CountChange:
    """A count that differs: of the whole model, `layers` saying how much of it is in which layer (a
    minus: fewer).
    """

    name: str
    before: int
    after: int
    layers: tuple[tuple[str, int], ...] = ()

    @property
    def more(self) -> bool:
        """Whether there are more of it now."""
        return self.after > self.before

    def __str__(self) -> str:
        name = _WORDS.get(self.name, self.name)
        change = f"{name} {self.before:,} → {self.after:,} ({self.after - self.before:+,})"
        where = [f"{layer} {by:+,}" for layer, by in self.layers[:_SHOWN]]
        hidden = len(self.layers) - len(where)
        if hidden:
            where.append(f"{hidden} more")
        return f"{change}: {', '.join(where)}" if where else change


def comparable_counts(a: Comparable, b: Comparable) -> list[str]:
    """Names of the counts that must be equal in both if the program is the same.

    On machines of one kind (GPU or CPU model, CUDA, cuDNN, torch) all that both know; else what
    torch's Python code
    decides: layers and graph breaks, if the release of torch is the same. Empty where nothing can
    be compared.
    """
    if _release(a) != _release(b):
        return []
    own = [LAYERS] if "LAYER" in a.levels and "LAYER" in b.levels else []
    same = all(a.environment.get(key) == b.environment.get(key) for key in _SAME_PROGRAM)
    if same and ("gpu" in a.environment or a.environment.get("cpu") == b.environment.get("cpu")):
        return [*known_counts(a, b), *own, GRAPH_BREAKS]
    return [*own, GRAPH_BREAKS]


def _release(which: Comparable) -> str:
    """Torch's version without its build, such as `+cu130`."""
    return str(which.environment.get("torch")).partition("+")[0]


def changes(a: Baseline, b: Baseline, nodes: pd.DataFrame) -> list[CountChange]:
    """The counts that differ, with the layers that differ; `nodes` are those of the comparison of
    the two.
    """
    found: list[CountChange] = []
    for name in comparable_counts(a.profile, b.profile):
        if name == GRAPH_BREAKS:
            found += _graph_breaks(a.graph_breaks, b.graph_breaks)
            continue
        before, after = a.profile.counts[name], b.profile.counts[name]
        if before != after:
            found.append(CountChange(name, before, after, _by_layer(nodes, name)))
    return found


def _graph_breaks(
    before: Mapping[str, int] | None, after: Mapping[str, int] | None
) -> Sequence[CountChange]:
    if before is None or after is None:
        return []
    total = sum(before.values()), sum(after.values())
    if total[0] == total[1]:
        return []
    places = {place: after.get(place, 0) - before.get(place, 0) for place in (*after, *before)}
    moved = tuple((place, change) for place, change in places.items() if change)
    return [CountChange(GRAPH_BREAKS, *total, moved)]


def _by_layer(nodes: pd.DataFrame, name: str) -> tuple[tuple[str, int], ...]:
    """By how much each layer's count differs, the largest difference first."""
    layers = nodes[nodes["level"] == "LAYER"]
    if name == LAYERS:
        change = layers["change"].map({"appeared": 1, "vanished": -1}).fillna(0)
    else:
        change = layers[f"{name}_b"].fillna(0) - layers[f"{name}_a"].fillna(0)
    change = change.astype("int64")
    direction = layers["phase"].map({"backward": " (backward)"}).fillna("")
    table = pd.DataFrame({"layer": layers["name"] + direction, "by": change})
    table = table[table["by"] != 0]
    table = table.sort_values("by", key=abs, ascending=False, kind="stable")
    return tuple((str(layer), int(by)) for layer, by in table.itertuples(index=False))
