"""Layers summed by type: how many (A5), how much of the latency (A6), how much of the memory (A7).

The paper draws these as pies. Bars of the same shares, largest first, can be compared by eye and
read without colour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from xsp.analysis.figures.labels import hover, safe
from xsp.analysis.figures.layer_bars import mebibytes_text, milliseconds
from xsp.analysis.figures.palette import OTHER, Family, family
from xsp.analysis.figures.theme import NO_LAYERS, Figure, empty, figure
from xsp.analysis.layers import layer_latency_by_type as layer_latency_by_type_table
from xsp.analysis.layers import layer_memory_by_type as layer_memory_by_type_table
from xsp.analysis.layers import layer_type_distribution as layer_type_distribution_table
from xsp.words import numbers
from xsp.words.labels import shorten

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_SLICES = 12
"""Bars of a distribution; smaller types are pooled into the last."""
_LEAST = 0.005
"""Types with less than this share are pooled."""


def layer_type_distribution(profile: ProfileData) -> Figure:
    """Share of each type among the layers, counted by calls (A5)."""
    table = layer_type_distribution_table(profile)
    return _shares(
        "Layers by type",
        table,
        "count",
        "Share of layers (%)",
        lambda amount: f"{int(amount)}",
        NO_LAYERS,
    )


def layer_latency_by_type(profile: ProfileData) -> Figure:
    """Share of each type in the layers' latency (A6)."""
    table = layer_latency_by_type_table(profile)
    return _shares(
        "Latency by type", table, "latency_ms", "Share of the latency (%)", milliseconds, NO_LAYERS
    )


def layer_memory_by_type(profile: ProfileData) -> Figure:
    """Share of each type in the memory that layers allocate (A7)."""
    table = layer_memory_by_type_table(profile)
    unknown = "The memory that layers allocate was not recorded in this profile."
    if not (table["allocated_bytes"] > 0).any():
        return empty("Memory by type", unknown)
    return _shares(
        "Memory by type",
        table,
        "allocated_bytes",
        "Share of the memory (%)",
        mebibytes_text,
        unknown,
    )


def _shares(
    title: str,
    table: pd.DataFrame,
    amount: str,
    axis: str,
    as_text: Callable[[float], str],
    unknown: str,
) -> Figure:
    table = table[table["share"].notna()].sort_values("share", ascending=False, kind="stable")
    if not len(table):
        return empty(title, unknown)
    pooled = pooled_types(table, amount)
    shares = pooled["share"].to_numpy(dtype=float) * 100
    texts = [f"{share:.1f} %" for share in shares]
    amounts = [as_text(value) for value in pooled[amount].astype(float)]
    looks = [
        OTHER if last else family(kind)
        for kind, last in zip(pooled["type"], pooled["pooled"], strict=True)
    ]
    drawn = figure(title, height=130 + 26 * len(pooled), showlegend=False, bargap=0.25)
    drawn.add_bar(
        x=shares,
        y=list(range(len(pooled))),
        orientation="h",
        text=texts,
        textposition="outside",
        cliponaxis=False,
        hoverinfo="text",
        marker={"color": [look.colour for look in looks]},
        hovertext=_hovers(
            pooled,
            looks,
            [f"{value} ({share})" for value, share in zip(amounts, texts, strict=True)],
        ),
    )
    labels = [safe(shorten(kind, 28)) for kind in pooled["type"]]
    drawn.update_yaxes(
        tickvals=list(range(len(pooled))), ticktext=labels, autorange="reversed", showgrid=False
    )
    # Room for the text beside the longest bar.
    return drawn.update_xaxes(title_text=axis, range=[0, max(float(shares.max()) * 1.28, 1.0)])


def _hovers(pooled: pd.DataFrame, looks: list[Family], amounts: list[str]) -> list[str]:
    columns = zip(pooled["type"], pooled["pooled"], pooled["count"], looks, amounts, strict=True)
    return [
        hover(
            f"<b>{safe(kind)}</b>",
            "" if last else look.name,
            numbers.quantity(int(count), "call"),
            amount,
        )
        for kind, last, count, look, amount in columns
    ]


def pooled_types(table: pd.DataFrame, amount: str) -> pd.DataFrame:
    """The largest types, sorted, with one row `other (N types)` for the rest: type, count,
    `amount`, share, pooled.
    """
    large = int((table["share"] >= _LEAST).sum())
    count = max(min(large, _SLICES - 1), 1)
    # A rest of one type is shown as what it is.
    shown = count if len(table) > count + 1 else len(table)
    kept, rest = table[:shown].assign(pooled=False), table[shown:]
    if not len(rest):
        return kept
    sums = {column: rest[column].sum() for column in dict.fromkeys(("count", amount, "share"))}
    row = pd.DataFrame([{"type": f"other ({len(rest)} types)", **sums, "pooled": True}])
    return pd.concat([kept[row.columns], row], ignore_index=True)
