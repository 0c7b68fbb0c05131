"""From operations, bytes and time to arithmetic intensity, throughput and what a kernel or a sum of
them is bound by.

Formulas and aggregation: XSP, section III-D. Latencies, operations and bytes are summed, occupancy
is the mean weighted with latency, arithmetic intensity and throughput follow from the sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from xsp.analysis.work.kernel_work import ANALYTIC, COUNTERS

MIXED = "mixed"
WORK = ["flops", "dram_read_bytes", "dram_write_bytes"]
"""Columns that are summed; a sum is NaN only where no part is known."""

RATES = [
    "occupancy",
    "arithmetic_intensity",
    "flops_per_s",
    "precision",
    "memory_bound",
    "source",
]
SUMMED = [*WORK, "flops_coverage", *RATES]
"""What `sum_work` and `add_rates` say of kernels that are summed up, in the tables' order."""


def add_rates(table: pd.DataFrame, ideal: Mapping[str, float]) -> pd.DataFrame:
    """`table` with arithmetic_intensity (FLOP/byte of DRAM traffic), flops_per_s and memory_bound.

    memory_bound is true iff the intensity is below the ideal one of the row's own precision
    (`ideal`, by precision); NA where either is not known. What has no operations is bound by memory
    under any roof.
    """
    traffic = table["dram_read_bytes"] + table["dram_write_bytes"]
    intensity = (table["flops"] / traffic.where(traffic > 0)).astype(np.float64)
    seconds = table["latency_ms"].where(table["latency_ms"] > 0) / 1e3
    limit = table["precision"].map(dict(ideal)).astype(np.float64)
    if ideal:
        limit = limit.mask(table["flops"] == 0, min(ideal.values()))
    known = intensity.notna() & limit.notna()
    return table.assign(
        arithmetic_intensity=intensity,
        flops_per_s=(table["flops"] / seconds).astype(np.float64),
        memory_bound=(intensity < limit).astype("boolean").where(known, pd.NA),
    )


def sources(work: pd.DataFrame) -> pd.Series[str]:
    """Where a kernel's operations, bytes and occupancy are from: "counters", "analytic", "mixed" or
    "".
    """
    columns = work[["flops_source", "bytes_source", "occupancy_source"]]
    return _source((columns == COUNTERS).any(axis=1), (columns == ANALYTIC).any(axis=1))


def analytic_quantities(work: pd.DataFrame) -> list[str]:
    """Which of "FLOPs" and "bytes" are worked out and not counted, for some row of
    `kernel_work`.
    """
    columns = {"FLOPs": "flops_source", "bytes": "bytes_source"}
    return [what for what, column in columns.items() if (work[column] == ANALYTIC).any()]


def _source(counted: pd.Series[bool], analytic: pd.Series[bool]) -> pd.Series[str]:
    named = np.select(
        [counted & analytic, counted, analytic], [MIXED, COUNTERS, ANALYTIC], default=""
    )
    return pd.Series(named, index=counted.index, dtype=object)


def sum_work(work: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Rows of `kernel_work` summed over groups, in the order in which these first appear.

    Columns: those of `by`, kernels (number), latency_ms (sum), flops, dram_read_bytes,
    dram_write_bytes, flops_coverage (share of the latency that kernels of known FLOPs take: below 1
    the sum is a lower bound), occupancy, precision (of most operations), source.
    """
    known = work["occupancy"].notna()
    parts = work.assign(
        latency_ms=work["duration_ns"] / 1e6,
        weight=work["duration_ns"].where(known),
        covered_ns=work["duration_ns"].where(~work["flops_unknown"], 0.0),
        weighted=(work["occupancy"] * work["duration_ns"]).where(known),
        counted=(sources(work) == COUNTERS) | (sources(work) == MIXED),
        analytic=(sources(work) == ANALYTIC) | (sources(work) == MIXED),
    )
    groups = parts.groupby(list(by), sort=False)
    table = groups[["latency_ms", *WORK, "weighted", "weight"]].sum(min_count=1)
    table["occupancy"] = table["weighted"] / table["weight"]
    table["flops_coverage"] = groups["covered_ns"].sum() / groups["duration_ns"].sum()
    table["kernels"] = groups.size()
    flags = groups[["counted", "analytic"]].any()
    table["source"] = _source(flags["counted"], flags["analytic"])
    table["precision"] = _dominant(work, by).reindex(table.index).fillna("")
    columns = [
        "kernels",
        "latency_ms",
        *WORK,
        "flops_coverage",
        "occupancy",
        "precision",
        "source",
    ]
    result: pd.DataFrame = table[columns].reset_index()
    return result


def _dominant(work: pd.DataFrame, by: Sequence[str]) -> pd.Series[str]:
    """The precision in which most of a group's operations are done."""
    keys = list(by)
    some = work[(work["precision"] != "") & (work["flops"] > 0)]
    sums = some.groupby([*keys, "precision"], sort=False)["flops"].sum().reset_index()
    largest_first = sums.sort_values("flops", ascending=False, kind="stable")
    chosen: pd.Series[str] = largest_first.drop_duplicates(keys).set_index(keys)["precision"]
    return chosen
