"""Where the time went from one profile to another, drawn: a bar for each layer, to the left what it
lost and to the right what it gained. Only HTML and styles, no script.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from xsp.comparing import phrases
from xsp.comparing.differences import APPEARED, VANISHED
from xsp.words import numbers
from xsp.words.labels import printable, shorten

if TYPE_CHECKING:
    from xsp.comparing.result import ComparisonData

STYLE = """
.differential td { padding: 1px 0; border: 0; } .differential td.side { width: 34%; }
.differential i { display: block; height: 14px; } .differential th { font-weight: 400; }
.differential .less i { margin-left: auto; background: #2d6987; }
.differential .more i { background: #dd7a14; }
.differential .alone i { background-image: repeating-linear-gradient(45deg,
  rgba(255,255,255,.6) 0 3px, transparent 3px 6px); }
.differential .told { padding-left: 12px; white-space: nowrap; font-variant-numeric: tabular-nums; }
"""
HEADINGS = {
    "device": "Time that the GPU is busy for a layer",
    "host": "Time that the host is in a layer",
}
"""By metric of `nodes`."""
ROWS = 30
"""Of each metric."""
_NAME = 48


def certain_differences(comparison: ComparisonData) -> pd.DataFrame:
    """Layers whose time is known to have changed, by how much it did, the most first: rows of
    `nodes` with `difference_ms`. Layers of one side have all of their time; of both sides only
    those are here whose 95 % interval is without 1.
    """
    nodes = comparison.nodes[comparison.nodes["level"] == "LAYER"]
    alone = nodes["change"].isin((APPEARED, VANISHED))
    sure = (nodes["low"] > 1) | (nodes["high"] < 1)
    found = nodes[alone | sure]
    difference = found["b_ms"].fillna(0.0) - found["a_ms"].fillna(0.0)
    found = found.assign(difference_ms=difference.astype(float))
    found = found[found["difference_ms"] != 0]
    order = np.argsort(-found["difference_ms"].abs().to_numpy(), kind="stable")
    return found.iloc[order]


def differential_html(comparison: ComparisonData) -> str:
    """A table of bars for each metric that layers are compared by, because ms of the host and of
    the GPU do not add up; empty where nothing is known to have changed.
    """
    table = certain_differences(comparison)
    if comparison.refusal or not len(table):
        return ""
    figures = [
        _figure(heading, mine)
        for metric, heading in HEADINGS.items()
        if len(mine := table[table["metric"] == metric])
    ]
    return (
        "<p>Left, blue: faster now. Right, orange: slower. Striped: only one of the two has the "
        "layer. Layers whose interval allows for no difference are left out.</p>"
        f"{''.join(figures)}"
    )


def _figure(heading: str, table: pd.DataFrame) -> str:
    """The differences of one metric, on a scale of their own."""
    widest = float(table["difference_ms"].abs().max())
    rows = "".join(_row(row, widest) for row in table[:ROWS].to_dict("records"))
    rest = table[ROWS:]
    more = (
        f"<p>{len(rest)} more, together "
        f"{numbers.milliseconds(float(rest['difference_ms'].abs().sum()))} ms.</p>"
        if len(rest)
        else ""
    )
    return (
        f'<h3>{heading}</h3><table class="differential"><thead><tr><th scope="col">layer</th>'
        '<th scope="col">faster</th><th scope="col">slower</th><th scope="col">difference</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>{more}"
    )


def _row(row: dict[object, object] | dict[str, object], widest: float) -> str:
    values = {str(name): value for name, value in row.items()}
    difference = float(str(values["difference_ms"]))
    backward = " (backward)" if values["phase"] == "backward" else ""
    name = escape(printable(shorten(str(values["name"]) + backward, _NAME)))
    bar = f'<i style="width:{100 * abs(difference) / widest:.1f}%"></i>'
    less, more = (bar, "") if difference < 0 else ("", bar)
    alone = " alone" if values["change"] in (APPEARED, VANISHED) else ""
    sign = "−" if difference < 0 else "+"
    told = f"{sign}{numbers.milliseconds(abs(difference), 4)} ms"
    ratio, low, high = (float(str(values[each])) for each in ("ratio", "low", "high"))
    if not alone and np.isfinite(ratio):
        interval = f"{phrases.percent(low)} to {phrases.percent(high)}"
        told += f", {phrases.percent(ratio)} ({interval})"
    elif alone:
        told += f", {values['change']}"
    return (
        f'<tr><th scope="row">{name}</th><td class="side less{alone}">{less}</td>'
        f'<td class="side more{alone}">{more}</td><td class="told">{escape(told)}</td></tr>'
    )
