"""Entries of one machine, asked for the fastest way to compute a layer. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, nan

from xsp.database.entry import WARM, Entry
from xsp.graphs.layer import Layer

DEFAULTS = ("torch", "oneDNN")
"""What PyTorch takes by itself: on a CPU oneDNN for products."""


@dataclass(frozen=True)
class Best:
    """The fastest known way to compute a layer; `time_ns` is NaN where nothing was measured."""

    time_ns: float = nan
    half_width_ns: float = nan
    algorithm: str = ""
    entry: Entry | None = None


class Known:
    """Entries of one machine, asked for the best of a layer."""

    def __init__(self, entries: Iterable[Entry], caches: str = WARM) -> None:
        self._by_layer: dict[tuple[str, str], list[Entry]] = {}
        for entry in entries:
            if entry.time_ns is not None and entry.caches == caches:
                key = (entry.layer.digest, entry.precision)
                self._by_layer.setdefault(key, []).append(entry)

    def of(self, layer: Layer, precision: str) -> list[Entry]:
        """Every algorithm that was timed, the fastest first."""
        found = self._by_layer.get((layer.digest, precision), [])
        return sorted(found, key=lambda entry: entry.time_ns or inf)

    def best(self, ways: Iterable[tuple[Layer, str]]) -> Best:
        """The fastest of several ways to compute a layer."""
        every = [entry for layer, precision in ways for entry in self.of(layer, precision)[:1]]
        if not every:
            return Best()
        entry = min(every, key=lambda one: one.time_ns or inf)
        return Best(
            float(entry.time_ns or nan),
            nan if entry.half_width_ns is None else entry.half_width_ns,
            entry.algorithm,
            entry,
        )

    def default_ns(self, entry: Entry | None) -> float:
        """What the algorithm takes that PyTorch takes by itself for the same layer, NaN where it
        is not known.
        """
        if entry is None:
            return nan
        every = self.of(entry.layer, entry.precision)
        mine = [each.time_ns for each in every if each.algorithm in DEFAULTS]
        return float(mine[0] or nan) if mine else nan
