"""One bar per layer, in the order of the run: latency (A3), memory (A4), work (A12), GPU share
(A13).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from xsp.analysis.figures.labels import hover, layer_label, safe
from xsp.analysis.figures.palette import (
    BACKWARD_PATTERN,
    BUSY,
    IDLE,
    IDLE_PATTERN,
    family,
    family_named,
)
from xsp.analysis.figures.sources import sources_note
from xsp.analysis.figures.theme import HEIGHT, MARKS, NO_KERNELS, NO_LAYERS, Figure, empty, figure
from xsp.analysis.layer_kernels import gpu_vs_nongpu as gpu_vs_nongpu_table
from xsp.analysis.layer_kernels import layer_metrics as layer_metrics_table
from xsp.analysis.layers import layer_information as layer_information_table
from xsp.analysis.layers import layer_latency as layer_latency_table
from xsp.analysis.layers import layer_memory as layer_memory_table
from xsp.words import numbers

if TYPE_CHECKING:
    from xsp.analysis.profile_data import ProfileData

_NAMED = 30
"""Layers up to which each bar has its layer's name below it instead of its index."""
_COSTLIEST = 20
_WIDTH = 0.9
"""Of a bar; left to plotly, a kind that occurs twice would have bars as wide as the distance
between them.
"""
_MIB = 2**20


def layer_latency(profile: ProfileData) -> Figure:
    """Latency of each layer (A3), coloured by kind, backward passes hatched."""
    title = "Latency of each layer"
    table = layer_latency_table(profile)
    if not len(table):
        return empty(title, NO_LAYERS)
    shown, left_out = largest(table, "latency_ms")
    top = table.nlargest(3, "latency_ms")
    note = (
        f"Largest: {_listed(top, top['latency_ms'].map(milliseconds))}.{left_out}{_hatched(table)}"
    )
    drawn = figure(title, note)
    values = [
        f"{milliseconds(value)} {numbers.plus_minus(half, numbers.decimals_for(value))}"
        for value, half in zip(shown["latency_ms"], shown["latency_ci_ms"], strict=True)
    ]
    _add_bars(drawn, shown, shown["latency_ms"], values)
    drawn.update_yaxes(title_text="Latency (ms)", rangemode="tozero")
    return _layer_axis(drawn, shown)


def layers_by_cost(profile: ProfileData) -> Figure:
    """The costliest layers, the largest first: the GPU busy for the layer, and idle because of it.
    Without a GPU the host's time.
    """
    title = "Layers by what they cost the latency"
    table = layer_information_table(profile)
    if not len(table):
        return empty(title, NO_LAYERS)
    spent, half = table["latency_ms"].astype(float), table["latency_ci_ms"].astype(float)
    certain = table[~(half >= spent)]
    shown = certain.nlargest(_COSTLIEST, "latency_ms").reset_index(drop=True)
    on_gpu = shown["device_ms"].notna().any()
    whole = shown["latency_ms"].astype(float)
    busy = shown["device_ms"].astype(float).fillna(whole).clip(upper=whole)
    parts = [("GPU busy" if on_gpu else "host", busy, BUSY, "")]
    if on_gpu:
        waiting = whole - busy
        parts.append(("GPU idle because of it", waiting, IDLE, IDLE_PATTERN))
    note = f"The {len(shown)} largest of {len(table)}."
    if len(certain) < len(table):
        note += f" {len(table) - len(certain)} are not ranked: their intervals are wider than they."
    drawn = figure(title, note, height=150 + 24 * len(shown), barmode="stack", bargap=0.25)
    texts = [
        f"{name}: {milliseconds(value)} of {milliseconds(cost)} "
        f"{numbers.plus_minus(width, numbers.decimals_for(cost))}"
        for name, values, _, _ in parts
        for value, cost, width in zip(values, whole, shown["latency_ci_ms"], strict=True)
    ]
    for place, (name, values, colour, pattern) in enumerate(parts):
        drawn.add_bar(
            x=values.to_numpy(),
            y=shown.index.to_numpy(),
            orientation="h",
            name=name,
            hoverinfo="text",
            hovertext=_hovers(shown, texts[place * len(shown) : (place + 1) * len(shown)]),
            marker={"color": colour, "pattern": {"shape": pattern}},
            showlegend=True,
        )
    names = [layer_label(*each, 40) for each in zip(shown["name"], shown["phase"], strict=True)]
    drawn.update_yaxes(
        tickvals=list(range(len(shown))), ticktext=names, autorange="reversed", showgrid=False
    )
    return drawn.update_xaxes(title_text="Part of the latency (ms)", rangemode="tozero")


def layer_memory(profile: ProfileData) -> Figure:
    """Bytes that each layer allocates (A4)."""
    title = "Memory allocated by each layer"
    table = layer_memory_table(profile)
    table = table[table["allocated_bytes"].notna() & (table["allocated_bytes"] >= 0)]
    if not len(table):
        return empty(title, "The memory that layers allocate was not recorded in this profile.")
    shown, left_out = largest(table, "allocated_bytes")
    mebibytes = shown["allocated_bytes"].astype(float) / _MIB
    top = table.nlargest(3, "allocated_bytes")
    note = (
        "Largest: "
        f"{_listed(top, top['allocated_bytes'].map(mebibytes_text))}.{left_out}{_hatched(table)}"
    )
    drawn = figure(title, note)
    _add_bars(drawn, shown, mebibytes, list(shown["allocated_bytes"].map(mebibytes_text)))
    drawn.update_yaxes(title_text="Allocated (MiB)", rangemode="tozero")
    return _layer_axis(drawn, shown)


def layer_metrics(profile: ProfileData) -> Figure:
    """FLOPs, DRAM bytes read and written by each layer (A12), below each other."""
    title = "Work of each layer: FLOPs and DRAM traffic"
    table = _named(layer_metrics_table(profile), profile)
    known = table[["flops", "dram_read_bytes", "dram_write_bytes"]].notna().any(axis=1)
    if not known.any():
        return empty(title, "Neither FLOPs nor DRAM traffic of this profile's layers are known.")
    table = table[known].assign(
        work=table[["flops", "dram_read_bytes", "dram_write_bytes"]].sum(axis=1)
    )
    shown, left_out = largest(table, "work", marks=MARKS // 3)
    drawn = figure(
        title, (sources_note(profile) + left_out + _hatched(table)).strip(), height=HEIGHT + 160
    )
    panels = (
        ("flops", 1e9, "FLOPs (G)", "GFLOP"),
        ("dram_read_bytes", _MIB, "Read (MiB)", "MiB read"),
        ("dram_write_bytes", _MIB, "Written (MiB)", "MiB written"),
    )
    for place, (column, scale, axis, unit) in enumerate(panels):
        suffix = "" if place == 0 else str(place + 1)
        values = shown[column].astype(float) / scale
        texts = [f"{value:,.4g} {unit}" for value in values]
        _add_bars(drawn, shown, values, texts, legend=place == 0, yaxis=f"y{suffix}")
        top = 1 - place * 0.35
        drawn.update_layout(
            {f"yaxis{suffix}": {"domain": [top - 0.29, top], "title": {"text": axis}}}
        )
    drawn.update_layout(xaxis={"anchor": "y3"})
    return _layer_axis(drawn, shown)


def gpu_vs_nongpu(profile: ProfileData) -> Figure:
    """Share of each layer's latency in which the GPU works for it, and the rest (A13), normalised
    to 100 %.
    """
    title = "GPU and non-GPU time of each layer"
    table = _named(gpu_vs_nongpu_table(profile), profile)
    table = table[table["gpu_share"].notna()]
    if not len(table):
        return empty(title, NO_KERNELS)
    shown, left_out = largest(table, "layer_latency_ms", marks=MARKS // 2)
    total, gpu = table["layer_latency_ms"].sum(), table["gpu_ms"].sum()
    note = (
        f"Of all layers' {milliseconds(total)} the GPU works for {milliseconds(gpu)} "
        f"({gpu / total:.1%})."
    )
    drawn = figure(title, note + left_out, barmode="stack")
    parts = (
        ("gpu_share", "gpu_ms", "GPU busy", BUSY, ""),
        ("nongpu_share", "nongpu_ms", "GPU idle", IDLE, IDLE_PATTERN),
    )
    for share, spent, name, colour, pattern in parts:
        texts = [
            f"{name}: {milliseconds(value)} of {milliseconds(whole)} ({part:.1%})"
            for value, whole, part in zip(
                shown[spent], shown["layer_latency_ms"], shown[share], strict=True
            )
        ]
        drawn.add_bar(
            x=shown["index"].to_numpy(),
            y=shown[share].astype(float).to_numpy() * 100,
            name=name,
            width=_WIDTH,
            hoverinfo="text",
            hovertext=_hovers(shown, texts),
            marker={"color": colour, "pattern": {"shape": pattern}},
        )
    drawn.update_yaxes(title_text="Share of the layer's latency (%)", range=[0, 100])
    return _layer_axis(drawn, shown)


def largest(table: pd.DataFrame, column: str, marks: int = MARKS) -> tuple[pd.DataFrame, str]:
    """At most `marks` rows with the largest values, in the order of the table, and a sentence on
    those left out.
    """
    if len(table) <= marks:
        return table, ""
    kept = table.loc[table[column].astype(float).nlargest(marks).index.sort_values()]
    share = 1 - kept[column].sum() / table[column].sum()
    return (
        kept,
        f" The {len(table) - marks} smallest of {len(table)} are not drawn, together {share:.1%}.",
    )


def mebibytes_text(amount: float) -> str:
    """`12.5 MiB`."""
    return f"{float(amount) / _MIB:,.4g} MiB"


def milliseconds(value: float) -> str:
    """`1.234 ms`, with about four significant digits."""
    return f"{numbers.milliseconds(value, numbers.decimals_for(value))} ms"


def _named(table: pd.DataFrame, profile: ProfileData) -> pd.DataFrame:
    """The table with the columns index, name and phase that those of layers alone have."""
    layers = layer_latency_table(profile)[["index", "name", "phase"]]
    return table.rename(columns={"layer_index": "index"}).merge(layers, how="left", on="index")


def _hatched(table: pd.DataFrame) -> str:
    return " Hatched: backward passes." if (table["phase"] == "backward").any() else ""


def _listed(table: pd.DataFrame, amounts: pd.Series[str]) -> str:
    names = (
        f"{name} (bwd)" if phase == "backward" else name
        for name, phase in zip(table["name"], table["phase"], strict=True)
    )
    return ", ".join(
        f"{name} {amount} (index {index})"
        for name, amount, index in zip(names, amounts, table["index"], strict=True)
    )


def _hovers(table: pd.DataFrame, texts: list[str]) -> list[str]:
    columns = zip(table["index"], table["name"], table["type"], table["phase"], texts, strict=True)
    return [
        hover(f"<b>{layer_label(name, phase, 100)}</b>", f"{safe(kind)}, layer {index}", text)
        for index, name, kind, phase, text in columns
    ]


def _add_bars(
    drawn: Figure,
    table: pd.DataFrame,
    values: pd.Series[float],
    texts: list[str],
    *,
    legend: bool = True,
    **more: Any,
) -> None:
    """One trace per kind of layer and phase, so that the legend can switch them off."""
    kinds = table["type"].map(lambda kind: family(kind).name).to_numpy()
    backward = (table["phase"] == "backward").to_numpy()
    hovers = np.array(_hovers(table, texts), dtype=object)
    index, height = table["index"].to_numpy(), values.to_numpy(dtype=float)
    groups = sorted(
        set(zip(kinds.tolist(), backward.tolist(), strict=True)), key=lambda group: group[::-1]
    )
    for kind, is_backward in groups:
        here = (kinds == kind) & (backward == is_backward)
        look = family_named(kind)
        drawn.add_bar(
            x=index[here],
            y=height[here],
            width=_WIDTH,
            hovertext=hovers[here].tolist(),
            hoverinfo="text",
            name=f"{kind} (bwd)" if is_backward else kind,
            legendgroup=kind,
            marker={
                "color": look.colour,
                "pattern": {"shape": BACKWARD_PATTERN if is_backward else ""},
            },
            showlegend=legend and not (is_backward and (kind, False) in groups),
            **more,
        )
    drawn.update_layout(barmode="overlay", showlegend=True)


def _layer_axis(drawn: Figure, table: pd.DataFrame) -> Figure:
    first, last = int(table["index"].min()), int(table["index"].max())
    drawn.update_xaxes(
        title_text="Layer, in the order of the run", range=[first - 0.6, last + 0.6], showgrid=False
    )
    if len(table) <= _NAMED:
        names = [layer_label(*each, 28) for each in zip(table["name"], table["phase"], strict=True)]
        drawn.update_xaxes(
            tickvals=table["index"].to_numpy(), ticktext=names, tickangle=-40, title_text="Layer"
        )
    return drawn
