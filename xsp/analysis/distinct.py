"""Kernels that do the same work: which launches to measure, and what the others share with them.

Measuring a kernel's counters takes CUPTI milliseconds, however short the kernel, and a network repeats most of its
kernels. Two launches count as equal if they run the same kernel with the same launch configuration, in layers of the
same type, phase, shapes and dtypes, in library calls with the same arguments, and as the same one of such kernels in
the layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

_LAYER_KEY = ["type", "phase", "input_shapes", "input_dtypes", "output_shapes", "output_dtypes"]
_CALL_KEY = ["name", "arguments"]

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Plan:
    """Launches by position in the kernel sequence: `kernels` (rows of `kernels`), `names`, and `keys`, equal for equal
    launches. `first` is for each position the first one with its key; `second` are last positions of keys that repeat.
    """

    kernels: IntArray
    names: Sequence[str]
    keys: IntArray
    first: IntArray
    second: IntArray

    @property
    def measured(self) -> IntArray:
        """Positions to measure, in order: the first of every key, and the last of those that repeat."""
        return np.union1d(self.first, self.second)

    @property
    def wanted(self) -> npt.NDArray[np.bool_]:
        """A truth value for each position."""
        return np.isin(np.arange(len(self.keys)), self.measured)

    @property
    def samples(self) -> IntArray:
        """For each position the one whose values it has: its own if it is measured, else the first of its key."""
        return np.where(self.wanted, np.arange(len(self.keys)), self.first)


def planned(sequence: pd.DataFrame, tables: Mapping[str, pd.DataFrame]) -> Plan:
    """What to measure of a `kernel_sequence`."""
    parts = pd.DataFrame(
        {
            "kernel": sequence["kernel"].to_numpy(),
            "layer": _codes(tables["layers"], _LAYER_KEY, sequence["layer"].to_numpy()),
            "call": _codes(tables["library_calls"], _CALL_KEY, sequence["library_call"].to_numpy()),
            "repeat": sequence.groupby(["layer_span", "kernel"]).cumcount().to_numpy(),
        }
    )
    groups = parts.groupby(list(parts.columns), sort=False)
    keys = groups.ngroup().to_numpy()
    positions = pd.Series(np.arange(len(keys)))
    first = positions.groupby(keys).transform("first").to_numpy()
    last = positions.groupby(keys).last().to_numpy()
    return Plan(
        sequence["kernel"].to_numpy(),
        list(sequence["name"]),
        keys,
        first,
        last[np.bincount(keys) > 1] if len(keys) else last,
    )


def _codes(table: pd.DataFrame, columns: list[str], rows: IntArray) -> IntArray:
    """A number for each row, the same for rows that agree in these columns; -1 stays -1."""
    codes: IntArray = np.r_[table.groupby(columns, sort=False, dropna=False).ngroup().to_numpy(), -1]
    return codes[rows]


def shared(plan: Plan, metrics: Sequence[str], values: npt.NDArray[np.float64]) -> pd.DataFrame:
    """The `counters` table: position, kernel, sample, a column per metric.

    `values` has a row for each of `plan.measured` and a column per metric.
    """
    rows = np.searchsorted(plan.measured, plan.samples)
    own = {"position": np.arange(len(plan.keys)), "kernel": plan.kernels, "sample": plan.samples}
    return pd.DataFrame(own | {metric: values[rows, column] for column, metric in enumerate(metrics)})


def spread(plan: Plan, metrics: Sequence[str], values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """How far two launches of one key are apart, relative to their mean; over all keys weighted by the value.

    None where no launch repeats, or where a metric is 0 in all that do.
    """
    again = values[np.searchsorted(plan.measured, plan.second)]
    once = values[np.searchsorted(plan.measured, plan.first[plan.second])]
    apart, total = np.abs(again - once).sum(axis=0), np.abs(again + once).sum(axis=0) / 2
    return {metric: float(a / t) if t > 0 else None for metric, a, t in zip(metrics, apart, total, strict=True)}
