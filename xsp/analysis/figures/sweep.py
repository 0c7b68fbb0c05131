"""Several profiles of a model: throughput and latency over the batch size (A1), GPU time and
roofline (A15).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xsp.analysis.figures.labels import hover, safe
from xsp.analysis.figures.layer_bars import milliseconds
from xsp.analysis.figures.palette import BUSY, IDLE, IDLE_PATTERN
from xsp.analysis.figures.rooflines import INTENSITY_AXIS, THROUGHPUT_AXIS, bound_text, drawable
from xsp.analysis.figures.roofs import add_roofs, dram_bytes_per_s, roofs, si
from xsp.analysis.figures.sources import sources_note
from xsp.analysis.figures.theme import NO_KERNELS, Figure, empty, figure
from xsp.analysis.model import kernels_by_model as kernels_by_model_table
from xsp.analysis.model import model_information as model_information_table
from xsp.analysis.peaks import peaks
from xsp.words import numbers

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "pentagon", "hexagon")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Models of one figure differ in symbol and dash: all of them have the colour of the level MODEL or
KERNEL.
"""


def model_information(profiles: ProfileData | Sequence[ProfileData]) -> Figure:
    """Throughput, and below it latency with its 95 % interval, over the batch size (A1); a line per
    model.
    """
    title = "Throughput and latency over the batch size"
    table = model_information_table(profiles)
    table = table[table["batch_size"].astype(float) > 0].sort_values("batch_size")
    if not len(table):
        return empty(
            title,
            "The batch size of these profiles is not known: their inputs have no common first "
            "dimension.",
        )
    drawn = figure(title, height=560)
    for place, (name, rows) in enumerate(table.groupby("name", sort=False)):
        _add_model(drawn, safe(str(name)), rows, place)
    drawn.update_yaxes(rangemode="tozero")
    drawn.update_layout(
        xaxis={**_batch_axis(table), "anchor": "y2", "title": {"text": "Batch size"}},
        yaxis={"domain": [0.54, 1.0], "title": {"text": "Throughput (inputs/s)"}},
        yaxis2={
            "domain": [0.0, 0.46],
            "title": {"text": "Latency of a batch (ms)"},
            "rangemode": "tozero",
        },
        showlegend=table["name"].nunique() > 1,
    )
    return drawn


def kernels_by_model(profiles: ProfileData | Sequence[ProfileData]) -> Figure:
    """GPU-busy and idle time of each profile, and the model's place below the roofs of its GPU
    (A15).
    """
    title = "GPU time and roofline of the models"
    every = profiles if isinstance(profiles, Sequence) else [profiles]
    busy = [float(profile.tree()["device_ms"].iloc[0]) for profile in every]
    table = kernels_by_model_table(every).assign(busy_ms=busy)
    table = table[table["kernel_latency_ms"].astype(float) > 0].reset_index(drop=True)
    if not len(table):
        return empty(title, NO_KERNELS)
    placed = table[drawable(table)]
    note = (
        sources_note(every)
        if len(placed)
        else "There is no roofline: FLOPs or DRAM traffic are unknown."
    )
    drawn = figure(title, note, height=520, barmode="stack")
    _add_latencies(drawn, table, full_width=not len(placed))
    if len(placed):
        _add_roofline(drawn, placed, peaks(every[0]))
    return drawn


def _add_model(drawn: Figure, name: str, rows: pd.DataFrame, place: int) -> None:
    look = {
        "mode": "lines+markers",
        "name": name,
        "legendgroup": name,
        "hoverinfo": "text",
        "line": {"color": BUSY, "width": 2, "dash": _DASHES[place % len(_DASHES)]},
        "marker": {"symbol": _SYMBOLS[place % len(_SYMBOLS)], "size": 9},
    }
    batches, half = rows["batch_size"].astype(int), rows["latency_ci_ms"].astype(float)
    heads = [f"<b>{name}</b>, batch size {batch}" for batch in batches]
    throughput, latency = rows["throughput_per_s"].astype(float), rows["latency_ms"].astype(float)
    drawn.add_scatter(
        x=batches.to_numpy(),
        y=throughput.to_numpy(),
        **look,
        hovertext=[
            hover(head, f"{value:,.4g} inputs/s")
            for head, value in zip(heads, throughput, strict=True)
        ],
    )
    drawn.add_scatter(
        x=batches.to_numpy(),
        y=latency.to_numpy(),
        yaxis="y2",
        showlegend=False,
        **look,
        error_y={"type": "data", "array": np.nan_to_num(half), "thickness": 1.2},
        hovertext=[
            hover(
                head, f"{milliseconds(value)} {numbers.plus_minus(ci, numbers.decimals_for(value))}"
            )
            for head, value, ci in zip(heads, latency, half, strict=True)
        ],
    )


def _batch_axis(table: pd.DataFrame) -> dict[str, object]:
    batches = sorted(table["batch_size"].astype(int).unique().tolist())
    return {
        "type": "log",
        "tickvals": batches,
        "ticktext": [str(batch) for batch in batches],
        "title": {"standoff": 8},
    }


def _add_latencies(drawn: Figure, table: pd.DataFrame, *, full_width: bool) -> None:
    labels = _labels(table)
    # Not the sum of the kernels, which is more than the latency where streams overlap.
    gpu = table["busy_ms"]
    rest = (table["model_latency_ms"].astype(float) - gpu).clip(lower=0)
    for part, name, colour, pattern in (
        (gpu, "GPU busy", BUSY, ""),
        (rest, "GPU idle", IDLE, IDLE_PATTERN),
    ):
        shares = part / table["model_latency_ms"].astype(float)
        drawn.add_bar(
            x=list(range(len(table))),
            y=part.to_numpy(),
            name=name,
            hoverinfo="text",
            marker={"color": colour, "pattern": {"shape": pattern}},
            hovertext=[
                hover(f"<b>{label}</b>", f"{name}: {numbers.milliseconds(value)} ms ({share:.1%})")
                for label, value, share in zip(labels, part, shares, strict=True)
            ],
        )
    axis = {
        "tickvals": list(range(len(table))),
        "ticktext": labels,
        "domain": [0, 1 if full_width else 0.36],
    }
    drawn.update_layout(xaxis=axis, yaxis={"title": {"text": "Model latency (ms)"}})


def _labels(table: pd.DataFrame) -> list[str]:
    """The batch sizes, after the model's name where there are several models."""
    batches = [f"batch {batch}" if batch else "" for batch in _batches(table)]
    if table["name"].nunique() == 1 and all(batches):
        return batches
    return [
        f"{safe(name)} {batch}".strip() for name, batch in zip(table["name"], batches, strict=True)
    ]


def _batches(table: pd.DataFrame) -> list[str]:
    """Batch sizes as texts, empty where not known."""
    return ["" if pd.isna(batch) else str(batch) for batch in table["batch_size"]]


def _add_roofline(drawn: Figure, placed: pd.DataFrame, known: pd.DataFrame) -> None:
    drawn_roofs, bandwidth = roofs(known, placed["precision"].unique()), dram_bytes_per_s(known)
    intensity = placed["arithmetic_intensity"].astype(float)
    low = min(float(intensity.min()), 1.0) / 2
    high = max([float(intensity.max()), 10.0, *(roof.ridge for roof in drawn_roofs)]) * 4
    first = len(drawn.data)
    add_roofs(drawn, drawn_roofs, bandwidth, low, high)
    for place, (name, rows) in enumerate(placed.groupby("name", sort=False)):
        _add_path(drawn, safe(str(name)), rows, place)
    for trace in drawn.data[first:]:
        trace.update(xaxis="x2", yaxis="y2")
    drawn.update_layout(
        xaxis2={
            "domain": [0.47, 1.0],
            "anchor": "y2",
            "type": "log",
            "range": [np.log10(low), np.log10(high)],
            "dtick": 1,
            "tickformat": "~g",
            "title": {"text": INTENSITY_AXIS},
        },
        yaxis2={
            "anchor": "x2",
            "type": "log",
            "dtick": 1,
            "tickformat": "~s",
            "title": {"text": THROUGHPUT_AXIS},
        },
    )


def _add_path(drawn: Figure, name: str, rows: pd.DataFrame, place: int) -> None:
    batches = _batches(rows)
    columns = zip(
        batches,
        rows["arithmetic_intensity"],
        rows["flops_per_s"],
        rows["memory_bound"],
        strict=True,
    )
    drawn.add_scatter(
        x=rows["arithmetic_intensity"].astype(float).to_numpy(),
        y=rows["flops_per_s"].astype(float).to_numpy(),
        mode="lines+markers+text",
        text=batches,
        textposition="bottom right",
        name=name,
        hoverinfo="text",
        marker={"symbol": _SYMBOLS[place % len(_SYMBOLS)], "size": 9, "color": BUSY},
        line={"color": BUSY, "width": 1, "dash": _DASHES[place % len(_DASHES)]},
        hovertext=[
            hover(
                f"<b>{name}</b>" + (f", batch size {batch}" if batch else ""),
                f"{float(ai):.4g} FLOP/byte, {si(float(per_s))}FLOP/s",
                bound_text(bound),
            )
            for batch, ai, per_s, bound in columns
        ],
    )
