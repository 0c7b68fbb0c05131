"""DLBricks' figures, from the tables of `tables.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xsp.analysis.figures.labels import hover, safe
from xsp.analysis.figures.palette import BUSY, FAMILIES, IDLE
from xsp.analysis.figures.theme import Figure, empty, figure
from xsp.brickwork.construction import SUM
from xsp.extras import require

if TYPE_CHECKING:
    import pandas as pd

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
_COLOURS = (BUSY, *(each.colour for each in FAMILIES))
_NOTHING = "No model was measured whole beside its bricks, so there is nothing to compare with."
PAPER_SPEEDUP = {1: 4.4, 10: 3.1}
"""Read off the charts of DLBricks (ICPE 2020), section IV, for c5.xlarge."""


def normalised(models: pd.DataFrame) -> Figure:
    """Constructed over measured latency of each model, by granularity, with 95 % intervals (the
    paper's figure of normalised latencies).
    """
    require("plotly")
    import plotly.graph_objects as go

    title = "Constructed over measured latency"
    table = models[(models["rule"] == SUM) & models["normalised"].notna()]
    if not len(table):
        return empty(title, _NOTHING)
    drawn = figure(title, f"By the rule: {SUM}. 1 is exact; bars are 95 % intervals.")
    for place, (granularity, rows) in enumerate(table.groupby("granularity", sort=True)):
        drawn.add_trace(
            go.Scatter(
                x=[safe(str(name)) for name in rows["model"]],
                y=rows["normalised"],
                error_y={"type": "data", "array": rows["normalised_ci"], "thickness": 1},
                mode="markers",
                name=f"granularity {granularity}",
                marker={
                    "symbol": _SYMBOLS[place % len(_SYMBOLS)],
                    "color": _COLOURS[place % len(_COLOURS)],
                    "size": 9,
                },
                hovertemplate=hover("%{x}", "%{y:.3f}"),
            )
        )
    drawn.add_hline(y=1.0, line={"color": IDLE, "dash": "dot"})
    return drawn.update_layout(yaxis={"title": {"text": "Constructed / measured"}})


def speedup(pools: pd.DataFrame) -> Figure:
    """How much faster the unique bricks are run than the models, by granularity, beside the paper's
    numbers, which are of another pool and machine.
    """
    require("plotly")
    import plotly.graph_objects as go

    title = "Speed-up of benchmarking"
    table = pools[pools["speedup"].notna()]
    if not len(table):
        return empty(title, _NOTHING)
    note = (
        "Latencies of all models over those of their unique bricks. The paper's are of 50 others."
    )
    drawn = figure(title, note, height=360)
    series = {
        "here": (list(table["granularity"]), list(table["speedup"])),
        "DLBricks, c5.xlarge": (list(PAPER_SPEEDUP), list(PAPER_SPEEDUP.values())),
    }
    for (name, (x, y)), colour in zip(series.items(), (_COLOURS[0], IDLE), strict=True):
        drawn.add_trace(
            go.Bar(
                x=[str(each) for each in x],
                y=y,
                name=name,
                marker={"color": colour},
                hovertemplate=hover("granularity %{x}", "%{y:.2f}"),
            )
        )
    return drawn.update_layout(
        xaxis={"title": {"text": "Granularity"}, "type": "category"},
        yaxis={"title": {"text": "Speed-up"}, "rangemode": "tozero"},
    )


def similarity(table: pd.DataFrame, granularity: int) -> Figure:
    """Jaccard similarity of the models' unique bricks, as a heat map."""
    require("plotly")
    import plotly.graph_objects as go

    title = f"Shared bricks at granularity {granularity}"
    if len(table) < 2:
        return empty(title, "There is one model only; similarity is between two.")
    names = [safe(str(name)) for name in table.columns]
    drawn = figure(
        title,
        "Jaccard similarity |A ∩ B| / |A ∪ B| of the unique bricks of two models.",
        height=120 + 26 * len(names),
    )
    drawn.add_trace(
        go.Heatmap(
            z=table.to_numpy(),
            x=names,
            y=names,
            zmin=0.0,
            zmax=1.0,
            colorscale=[[0.0, "rgba(0,0,0,0)"], [1.0, _COLOURS[0]]],
            hovertemplate=hover("%{x}", "%{y}", "%{z:.2f}"),
        )
    )
    return drawn
