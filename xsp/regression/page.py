"""The outcomes of a test run as one HTML page without any other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from xsp.regression.outcome import Outcome
from xsp.regression.summary import HEADINGS, cells, counted, details, explanations, machines

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1c1e21 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #d8dbe0; vertical-align: top }
td:first-child { overflow-wrap: anywhere }
tr.failed td { background: #fdecea }
pre { background: #f4f5f7; padding: .7rem; overflow-x: auto }
summary { cursor: pointer; font-family: ui-monospace, monospace }
@media (prefers-color-scheme: dark) {
  body { background: #17181a; color: #e6e7e9 } th, td { border-color: #3a3d42 }
  tr.failed td { background: #46211f } pre { background: #222428 }
}
"""


def page(outcomes: Sequence[Outcome]) -> str:
    """The page's text. Names of tests and layers are escaped: they come from any program."""
    title = f"xsp: {counted(outcomes)}"
    head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
    rows = "".join(map(_row, outcomes))
    facts = [*explanations(outcomes), *(f"measured on {machine}" for machine in machines(outcomes))]
    said = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><ul>{said}</ul>"
        f"{''.join(map(_details, outcomes))}</body></html>\n"
    )


def _row(outcome: Outcome) -> str:
    kind = ' class="failed"' if outcome.failures else ""
    return f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(outcome))}</tr>"


def _details(outcome: Outcome) -> str:
    if not (said := details(outcome)):
        return ""
    opened = " open" if outcome.failures else ""
    text = escape("\n".join(said))
    return f"<details{opened}><summary>{escape(outcome.test)}</summary><pre>{text}</pre></details>"
