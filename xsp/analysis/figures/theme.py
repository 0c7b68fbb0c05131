"""What all figures share: light and dark looks, titles, and the empty figure."""

from __future__ import annotations

import textwrap
from typing import Any

from xsp.analysis.figures.labels import safe
from xsp.extras import require

Figure = Any
"""A `plotly.graph_objects.Figure`; plotly has no types, and is imported when a figure is made."""

MARKS = 2000
"""Marks of a figure at most. Beyond, the smallest are pooled or left out, and the figure
says so.
"""
HEIGHT = 460
PAGE_LIGHT, PAGE_DARK = "#ffffff", "#15181c"

NO_LAYERS = "No layers were traced in this profile."
NO_KERNELS = (
    "No kernels were traced in this profile; that takes an NVIDIA GPU and the KERNEL level."
)

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif'
_LINE = 130
_NOTE_LINE = 22
"""Height in pixels of a line below the title, which has the spacing of the title's font."""


def template(dark: bool = False, *, transparent: bool = False) -> dict[str, Any]:
    """A plotly template. Marks have the same colours in both; `transparent` lets the page show
    through.
    """
    page = PAGE_DARK if dark else PAGE_LIGHT
    text, grid, line = (
        ("#e6e8eb", "#30363d", "#6b737d") if dark else ("#1f2328", "#e4e7eb", "#9aa1ab")
    )
    box = {
        "bgcolor": "#22272e" if dark else "#ffffff",
        "bordercolor": line,
        "font": {"color": text, "size": 12},
    }
    axis = {
        "gridcolor": grid,
        "linecolor": line,
        "zerolinecolor": line,
        "ticks": "outside",
        "tickcolor": line,
        "showline": True,
        "automargin": True,
        "title": {"standoff": 8},
    }
    layout = {
        "font": {"family": _FONT, "size": 12, "color": text},
        "paper_bgcolor": "rgba(0,0,0,0)" if transparent else page,
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {**box, "align": "left"},
        "legend": {"bgcolor": "rgba(0,0,0,0)"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": line, "activecolor": text},
        "xaxis": axis,
        "yaxis": axis,
    }
    # Patterns are drawn over a bar's own colour in that of the page, so that bars stay apart in
    # grey too.
    bar = {
        "marker": {
            "line": {"width": 0},
            "pattern": {"fgcolor": page, "fillmode": "overlay", "size": 6},
        }
    }
    icicle = {"marker": {"line": {"color": page, "width": 1}}}
    return {"layout": layout, "data": {"bar": [bar], "icicle": [icicle]}}


def figure(title: str, note: str = "", *, height: int = HEIGHT, **layout: Any) -> Figure:
    """A figure without traces. `note` is the sentence below the title: what is not drawn, and where
    numbers are from.

    Both are also in `layout.meta`, for a page that shows them as text of its own.
    """
    require("plotly")
    import plotly.graph_objects as go

    wrapped = textwrap.wrap(note, _LINE)
    lines = [
        f"<b>{safe(title)}</b>",
        *(f'<span style="font-size:12px">{safe(line)}</span>' for line in wrapped),
    ]
    drawn = go.Figure(
        layout={
            "template": template(),
            "title": {
                "text": "<br>".join(lines),
                "x": 0.01,
                "xanchor": "left",
                "yref": "container",
                "y": 1.0,
                "yanchor": "top",
                "pad": {"t": 14},
            },
            "height": height + _NOTE_LINE * len(wrapped),
            "margin": {"l": 70, "r": 24, "t": 78 + _NOTE_LINE * len(wrapped), "b": 56},
            "meta": {"title": title, "note": note, "height": height},
            "hovermode": "closest",
            "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.0},
            "bargap": 0.15,
        }
    )
    return drawn.update_layout(layout)


def empty(title: str, why: str) -> Figure:
    """A figure that says in one sentence why nothing can be drawn."""
    drawn = figure(title, height=220)
    drawn.update_layout(meta={"title": title, "note": why, "height": 120, "empty": True})
    drawn.update_xaxes(visible=False).update_yaxes(visible=False)
    text = "<br>".join(safe(line) for line in textwrap.wrap(why, 90))
    return drawn.add_annotation(
        text=text, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5, font={"size": 13}
    )
