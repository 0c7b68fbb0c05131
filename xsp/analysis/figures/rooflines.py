"""Rooflines of kernels (A9) and layers (A14): throughput over arithmetic intensity, below the roofs
of the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from xsp.analysis.figures.labels import hover, kernel_label, layer_label, safe
from xsp.analysis.figures.palette import family, family_named
from xsp.analysis.figures.roofs import Roof, add_roofs, dram_bytes_per_s, roofs, si
from xsp.analysis.figures.sources import sources_note
from xsp.analysis.figures.theme import MARKS, NO_KERNELS, Figure, empty, figure
from xsp.analysis.kernels import kernel_roofline as kernel_roofline_table
from xsp.analysis.layer_kernels import layer_roofline as layer_roofline_table
from xsp.analysis.layers import layer_information
from xsp.analysis.peaks import peaks
from xsp.words import numbers

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

INTENSITY_AXIS = "Arithmetic intensity (FLOP per byte of DRAM traffic)"
THROUGHPUT_AXIS = "Throughput (FLOP/s)"
_SMALLEST, _LARGEST = 6.0, 26.0
"""Diameters in pixels of the marks of no and of the largest latency."""
_LOWEST = 1e-3
"""FLOP per byte; kernels that do a handful of FLOPs on megabytes would squeeze all others
together.
"""

_NO_TIME = 0.001
"""Share of the time; marks that have less together can lie below the frame."""

Namer = Callable[[str], str]


def kernel_roofline(profile: ProfileData) -> Figure:
    """Each kernel (A9), as large as its latency, with the colour and symbol of its layer's kind."""
    title = "Roofline of the kernels"
    table = kernel_roofline_table(profile)
    if not len(table):
        return empty(title, NO_KERNELS)
    layers = layer_information(profile).drop_duplicates("name").set_index("name")["type"]
    kinds = table["layer"].map(layers).fillna("")
    return _roofline(profile, title, "kernels", table.assign(type=kinds), kernel_label)


def layer_roofline(profile: ProfileData) -> Figure:
    """Each layer (A14), with the FLOPs, bytes and GPU time of its kernels."""
    title = "Roofline of the layers"
    table = layer_roofline_table(profile)
    if not len(table):
        return empty(title, NO_KERNELS)
    return _roofline(profile, title, "layers", table.assign(name=table["layer"]), layer_label)


def log_axes(drawn: Figure) -> Figure:
    """Both axes logarithmic, in whole decades, with the roofline's titles."""
    drawn.update_xaxes(type="log", title_text=INTENSITY_AXIS, dtick=1, tickformat="~g")
    return drawn.update_yaxes(type="log", title_text=THROUGHPUT_AXIS, dtick=1, tickformat="~s")


def drawable(table: pd.DataFrame) -> pd.Series[bool]:
    """Rows that have a place on logarithmic axes: intensity and throughput known and above zero."""
    return (table[["arithmetic_intensity", "flops_per_s"]].astype(float) > 0).all(axis=1)


def _roofline(
    profile: ProfileData, title: str, what: str, table: pd.DataFrame, label: Namer
) -> Figure:
    placed = table[drawable(table)]
    if not len(placed):
        return empty(
            title,
            f"No {what} in this profile have both FLOPs and DRAM traffic above zero, or none are "
            "known.",
        )
    shown = placed.nlargest(MARKS, "latency_ms")
    drawn = figure(
        title,
        f"{sources_note(profile)} {_left_out(table, placed, shown, what)}".strip(),
        height=560,
    )
    drawn_roofs, bandwidth = _roofs(profile, shown)
    intensity = shown["arithmetic_intensity"].astype(float)
    ridges = [roof.ridge for roof in drawn_roofs]
    low = max(min(float(intensity.min()), 0.5) / 2, _LOWEST)
    high = max([float(intensity.max()), 10.0, *ridges]) * 4
    add_roofs(drawn, drawn_roofs, bandwidth, low, high)
    _add_marks(drawn, shown, label)
    drawn.update_xaxes(range=[np.log10(low), np.log10(high)])
    top = max([float(shown["flops_per_s"].max()), *(roof.per_s for roof in drawn_roofs)]) * 3
    drawn.update_yaxes(range=[np.log10(_lowest_in_sight(shown) / 3), np.log10(top)])
    return log_axes(drawn)


def _lowest_in_sight(shown: pd.DataFrame) -> float:
    """The throughput below which there is next to no time: a stray kernel would squeeze all others
    together.
    """
    ranked = shown.sort_values("flops_per_s")
    spent = ranked["latency_ms"].cumsum() / ranked["latency_ms"].sum()
    return float(ranked.loc[(spent > _NO_TIME).to_numpy(), "flops_per_s"].iloc[0])


def _roofs(profile: ProfileData, shown: pd.DataFrame) -> tuple[list[Roof], float]:
    known = peaks(profile)
    return roofs(known, shown["precision"].unique()), dram_bytes_per_s(known)


def _left_out(table: pd.DataFrame, placed: pd.DataFrame, shown: pd.DataFrame, what: str) -> str:
    sentences = []
    total = table["latency_ms"].sum()
    if len(placed) < len(table):
        share = 1 - placed["latency_ms"].sum() / total
        sentences.append(
            f"{len(table) - len(placed)} of {len(table)} {what} ({share:.1%} of their time) are "
            "not drawn: "
            "they do no FLOPs, or FLOPs or traffic are unknown."
        )
    below = int((shown["flops_per_s"] < _lowest_in_sight(shown) / 3).sum())
    if below:
        sentences.append(
            f"{below} with less than {_NO_TIME:.1%} of the time lie below the frame; zoom out to "
            "see them."
        )
    if len(shown) < len(placed):
        share = 1 - shown["latency_ms"].sum() / placed["latency_ms"].sum()
        sentences.append(
            f"Of the rest, the {len(placed) - len(shown)} shortest are not drawn ({share:.1%})."
        )
    return " ".join(sentences)


def _add_marks(drawn: Figure, shown: pd.DataFrame, label: Namer) -> None:
    kinds = shown["type"].map(lambda kind: family(kind).name).to_numpy()
    sizes = _diameters(shown["latency_ms"].to_numpy(dtype=float))
    hovers = np.array(_hovers(shown, label), dtype=object)
    x = shown["arithmetic_intensity"].to_numpy(dtype=float)
    y = shown["flops_per_s"].to_numpy(dtype=float)
    for kind in sorted(set(kinds)):
        look, here = family_named(kind), kinds == kind
        marker = {
            "color": look.colour,
            "symbol": look.symbol,
            "size": sizes[here],
            "opacity": 0.75,
            "line": {"width": 1, "color": look.colour},
        }
        drawn.add_scatter(
            x=x[here],
            y=y[here],
            mode="markers",
            name=kind,
            hoverinfo="text",
            hovertext=hovers[here].tolist(),
            marker=marker,
        )
    drawn.update_layout(showlegend=True, legend={"itemsizing": "constant"})


def _diameters(latency: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Areas grow with the latency."""
    return _SMALLEST + (_LARGEST - _SMALLEST) * np.sqrt(
        np.nan_to_num(latency) / max(np.nanmax(latency), 1e-12)
    )


def _hovers(table: pd.DataFrame, label: Namer) -> list[str]:
    layers = table["layer"] if "layer" in table else table["name"]
    columns = zip(
        table["name"],
        layers,
        table["type"],
        table["latency_ms"].astype(float),
        table["arithmetic_intensity"].astype(float),
        table["flops_per_s"].astype(float),
        table["precision"],
        table["memory_bound"],
        strict=True,
    )
    return [
        hover(
            f"<b>{label(name)}</b>",
            f"layer {layer_label(layer)}" if layer != name else "",
            safe(kind),
            f"{numbers.milliseconds(latency, 4)} ms",
            f"{intensity:.4g} FLOP/byte, {si(throughput)}FLOP/s {safe(precision)}".rstrip(),
            bound_text(bound),
        )
        for name, layer, kind, latency, intensity, throughput, precision, bound in columns
    ]


def bound_text(memory_bound: object) -> str:
    """The paper's word for a nullable `memory_bound`."""
    if memory_bound is None or memory_bound is pd.NA:
        return "bound unknown: no peak known"
    return "memory-bound" if memory_bound else "compute-bound"
