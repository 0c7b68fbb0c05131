"""Kernels summed by name (A10): where the GPU's time goes, whichever layer asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from xsp.analysis.figures.labels import hover, kernel_label, safe
from xsp.analysis.figures.palette import BUSY, IDLE, IDLE_PATTERN
from xsp.analysis.figures.rooflines import bound_text
from xsp.analysis.figures.roofs import si
from xsp.analysis.figures.sources import sources_note
from xsp.analysis.figures.theme import NO_KERNELS, Figure, empty, figure
from xsp.analysis.kernels import kernels_by_name as kernels_by_name_table
from xsp.words import numbers
from xsp.words.distinct import distinct_names

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_BARS = 20
_LABEL = 56
_BOUNDS = (
    ("compute-bound", BUSY, ""),
    ("memory-bound", BUSY, "x"),
    ("bound unknown", IDLE, IDLE_PATTERN),
)


def kernels_by_name(profile: ProfileData) -> Figure:
    """The kernels with the largest total latency, by name (A10); memory-bound ones hatched."""
    title = "Kernels by name"
    table = kernels_by_name_table(profile).sort_values("latency_ms", ascending=False, kind="stable")
    if not len(table):
        return empty(title, NO_KERNELS)
    shown, rest = table[:_BARS].reset_index(drop=True), table[_BARS:]
    note = sources_note(profile)
    if len(rest):
        note += (
            f" The {len(rest)} smallest of {len(table)} names are not drawn, together "
            f"{numbers.percent(rest['share'].sum())} of the model latency."
        )
    drawn = figure(title, note.strip(), height=150 + 24 * len(shown), bargap=0.25)
    for name, colour, pattern in _BOUNDS:
        part = shown[[_bound(value) == name for value in shown["memory_bound"]]]
        if len(part):
            _add(drawn, part, name, colour, pattern)
    short = distinct_names(shown["name"], _LABEL)
    labels = [safe(short[name]) for name in shown["name"]]
    drawn.update_yaxes(
        tickvals=list(range(len(shown))), ticktext=labels, autorange="reversed", showgrid=False
    )
    widest = float(shown["latency_ms"].max()) * 1.3
    return drawn.update_xaxes(title_text="Latency of all calls together (ms)", range=[0, widest])


def _bound(memory_bound: object) -> str:
    return bound_text(memory_bound).partition(":")[0]


def _add(drawn: Figure, part: pd.DataFrame, name: str, colour: str, pattern: str) -> None:
    drawn.add_bar(
        x=part["latency_ms"].astype(float).to_numpy(),
        y=part.index.to_numpy(),
        orientation="h",
        name=name,
        text=[
            f"{share} · {numbers.quantity(count, 'call')}"
            for share, count in zip(
                part["share"].map(numbers.percent), part["count"].astype(int), strict=True
            )
        ],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="text",
        hovertext=_hovers(part),
        marker={"color": colour, "pattern": {"shape": pattern}},
        showlegend=True,
    )


def _hovers(part: pd.DataFrame) -> list[str]:
    columns = [
        "name",
        "count",
        "latency_ms",
        "share",
        "arithmetic_intensity",
        "flops_per_s",
        "memory_bound",
    ]
    rows = zip(*(part[column] for column in columns), strict=True)
    return [
        hover(
            f"<b>{kernel_label(name, 110)}</b>",
            f"{numbers.milliseconds(latency, 4)} ms in {numbers.quantity(int(count), 'call')}, "
            f"{numbers.percent(share)} of the model latency",
            ""
            if pd.isna(throughput)
            else f"{float(intensity):.4g} FLOP/byte, {si(float(throughput))}FLOP/s",
            bound_text(bound),
        )
        for name, count, latency, share, intensity, throughput, bound in rows
    ]
