"""The roofs of a roofline: one per precision, the DRAM roof that they meet at their ridge
points.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xsp.analysis.figures.labels import safe
from xsp.analysis.figures.palette import PRECISIONS
from xsp.analysis.figures.theme import Figure
from xsp.analysis.peaks import DRAM, MEASURED

_ROOF = "#868d98"


@dataclass(frozen=True)
class Roof:
    """A peak in FLOP/s and the arithmetic intensity from which on it, and not the DRAM, is the
    limit.
    """

    resource: str
    precision: str
    per_s: float
    ridge: float
    source: str


def roofs(peaks: pd.DataFrame, precisions: Iterable[str]) -> list[Roof]:
    """Highest first: those of the given precisions, and of fp32 where none is known. Empty
    without DRAM peak.

    `peaks` is what `xsp.analysis.peaks.peaks` gives.
    """
    bandwidth = dram_bytes_per_s(peaks)
    if np.isnan(bandwidth):
        return []
    flops = peaks[(peaks["resource"] != DRAM) & peaks["per_s"].notna() & (peaks["precision"] != "")]
    wanted = flops[flops["precision"].isin(set(precisions))]
    rows = (wanted if len(wanted) else flops[flops["precision"] == "fp32"]).sort_values(
        "per_s", ascending=False
    )
    return [
        Roof(resource, precision, float(per_s), float(per_s) / bandwidth, source)
        for resource, precision, per_s, source in rows[
            ["resource", "precision", "per_s", "source"]
        ].to_numpy()
    ]


def dram_bytes_per_s(peaks: pd.DataFrame) -> float:
    """The DRAM bandwidth, theoretical where that is known; NaN if it is not known at all."""
    rows = peaks.loc[peaks["resource"] == DRAM, "per_s"].astype(float).dropna()
    return float(rows.iloc[0]) if len(rows) else float("nan")


def add_roofs(drawn: Figure, found: list[Roof], bandwidth: float, low: float, high: float) -> None:
    """Lines of the roofs from intensity `low` to `high`, each with its name on it and its ridge
    point marked.
    """
    if not found:
        return
    top = found[0]
    drawn.add_scatter(
        x=[low, top.ridge],
        y=[low * bandwidth, top.per_s],
        mode="lines",
        line={"color": _ROOF, "width": 2},
        hoverinfo="skip",
        showlegend=False,
    )
    # In the middle of what is drawn of it, on logarithmic axes.
    middle = float(np.sqrt(low * min(top.ridge, high)))
    _name(drawn, middle, middle * bandwidth, f"DRAM {si(bandwidth)}B/s", "top left")
    for roof in found:
        line = {"color": _ROOF, "width": 2, "dash": PRECISIONS.get(roof.precision, "solid")}
        drawn.add_scatter(
            x=[roof.ridge, high],
            y=[roof.per_s] * 2,
            mode="lines",
            line=line,
            hoverinfo="skip",
            showlegend=False,
        )
        drawn.add_scatter(
            x=[roof.ridge],
            y=[roof.per_s],
            mode="markers",
            showlegend=False,
            hoverinfo="text",
            marker={"symbol": "diamond-tall", "size": 11, "color": _ROOF},
            hovertext=[
                f"<b>{safe(roof.resource)}</b> ({safe(roof.source)})<br>{si(roof.per_s)}FLOP/s"
                f"<br>ridge point: {roof.ridge:.4g} FLOP/byte"
            ],
        )
    _name_roofs(drawn, found, low, high)


def _name_roofs(drawn: Figure, found: list[Roof], low: float, high: float) -> None:
    """A name for each height, in turn at the right end and further left, since neighbours are close
    together.
    """
    names: dict[float, list[str]] = {}
    for roof in found:
        height = float(f"{roof.per_s:.3g}")
        measured = " measured" if roof.source == MEASURED else ""
        names.setdefault(height, []).append(f"{roof.resource}{measured}")
    further_left = high * (low / high) ** 0.2
    for place, (per_s, resources) in enumerate(names.items()):
        name = f"{', '.join(resources)} {si(per_s)}FLOP/s"
        _name(drawn, further_left if place % 2 else high, per_s, name, "top left")


def _name(drawn: Figure, x: float, y: float, text: str, position: str) -> None:
    drawn.add_scatter(
        x=[x],
        y=[y],
        mode="text",
        text=[safe(text)],
        textposition=position,
        hoverinfo="skip",
        showlegend=False,
        textfont={"size": 11},
        cliponaxis=False,
    )


def si(value: float) -> str:
    """`989 T`, `3.35 T`, `12.4 G`: a quantity per second or byte with its SI prefix, a unit to
    follow.
    """
    for prefix, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor * 0.9995 and not (prefix == "P" and value < 1e16):
            return (
                f"{value / factor:.3g} {prefix}"
                if value / factor < 1000
                else f"{value / factor:.0f} {prefix}"
            )
    return f"{value:.3g} "
