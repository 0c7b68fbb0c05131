"""A graph as a page: layers as points by depth, lines from each to those that use it."""

from __future__ import annotations

import html
import os
from collections import Counter
from pathlib import Path
from typing import Any

from xsp.capture.writing import write_file
from xsp.extras import require
from xsp.graphs.graph import Graph

_SPACING = 1.0


def write_drawing(graph: Graph, path: str | os.PathLike[str]) -> Path:
    """Write the graph as one HTML page that opens without a network.

    Raises XspError where it cannot be written.
    """
    page = figure(graph).to_html(include_plotlyjs=True, full_html=True)
    return write_file(Path(path), page.encode())


def figure(graph: Graph) -> Any:
    """A plotly figure: depth downwards, layers of one depth side by side, colour by operator."""
    require("plotly")
    import plotly.graph_objects as go

    depth = graph.depths()
    across = _positions(depth)
    lines_x: list[float | None] = []
    lines_y: list[float | None] = []
    for before, after in graph.edges:
        lines_x += [across[before], across[after], None]
        lines_y += [depth[before], depth[after], None]
    drawn = go.Figure()
    drawn.add_scatter(
        x=lines_x,
        y=lines_y,
        mode="lines",
        line={"width": 1, "color": "#999"},
        hoverinfo="skip",
        showlegend=False,
    )
    for operator in sorted({layer.operator for layer in graph.layers}):
        mine = [place for place, each in enumerate(graph.layers) if each.operator == operator]
        drawn.add_scatter(
            x=[across[place] for place in mine],
            y=[depth[place] for place in mine],
            mode="markers",
            name=html.escape(operator),
            text=[_described(graph, place) for place in mine],
            hoverinfo="text",
            marker={"size": 9},
        )
    drawn.update_yaxes(autorange="reversed", title="layers before it on the longest way")
    drawn.update_xaxes(visible=False)
    drawn.update_layout(
        title=html.escape(f"{graph.name}: {len(graph)} layers, read from {graph.source}"),
        template="plotly_white",
        height=max(500, 14 * (max(depth, default=0) + 1)),
    )
    return drawn


def _positions(depth: list[int]) -> list[float]:
    """Layers of one depth stand side by side around the middle."""
    width = Counter(depth)
    seen: Counter[int] = Counter()
    found = []
    for each in depth:
        found.append((seen[each] - (width[each] - 1) / 2) * _SPACING)
        seen[each] += 1
    return found


def _described(graph: Graph, place: int) -> str:
    layer = graph.layers[place]
    lines = [
        f"<b>{html.escape(layer.name)}</b> {html.escape(layer.operator)}",
        "in: " + html.escape(", ".join(map(str, layer.inputs))),
        "weights: " + html.escape(", ".join(map(str, layer.weights)) or "none"),
        "out: " + html.escape(", ".join(map(str, layer.outputs))),
    ]
    return "<br>".join(lines)
