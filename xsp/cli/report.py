"""`xsp report`: what a capture says, in the terminal or as a page."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from xsp.cli.keeping import checked_all, put
from xsp.cli.shared import CaptureFile
from xsp.errors import XspError
from xsp.report.table import ROWS, TableLine, laid_out
from xsp.report.text import (
    NARROW,
    WIDE,
    footer_lines,
    header_lines,
    last_lines,
    profile_text,
)
from xsp.summary.summarizing import summarize

if TYPE_CHECKING:
    from xsp.profiles import Profile

_BY_LEVEL = {
    "MODEL": "bold",
    "MODULE": "",
    "LAYER": "",
    "LIBRARY": "cyan",
    "KERNEL": "magenta",
    "header": "bold",
}
_BY_COLUMN = {"bar": "blue", "±": "dim", "shape": "dim", "type": "dim"}
_HEADING = 10
_MORE = 5
"""Costs of a kind in forms that are not for a terminal."""


def print_profile(
    prof: Profile, console: Console, rows: int = ROWS, depth: int | None = None
) -> None:
    """Print header, table and footnote at the console's width, 80 to 120 characters."""
    width = min(max(console.width, NARROW), WIDE)
    table, summary = laid_out(prof, width, rows, depth), summarize(prof)
    name, *facts = header_lines(summary, width)
    lines = [Text(name, style="bold"), *map(_fact, facts), Text()]
    lines += [_line(table.header), *(_line(line) for line in table.lines), Text()]
    lines += [Text(line, style="dim") for line in footer_lines(summary, table, width)]
    lines += map(_fact, last_lines(summary, width))
    for line in lines:
        # Never wrapped or cut: in a narrower terminal the terminal does it, in a pipe nobody
        # should.
        console.print(line, soft_wrap=True, highlight=False)


_BY_HEADING = {"warning": "bold yellow", "try": "bold green"}


def _fact(line: str) -> Text:
    heading, sentence = line[:_HEADING], line[_HEADING:]
    return Text.assemble((heading, _BY_HEADING.get(heading.strip(), "dim")), sentence)


def _line(line: TableLine) -> Text:
    style = "dim" if line.is_fold else _BY_LEVEL.get(line.level, "")
    text = Text("  ").join(
        Text(cell, style=_BY_COLUMN.get(name, style)) for name, cell in line.cells.items()
    )
    text.rstrip()
    return text


def report(
    capture: CaptureFile,
    depth: Annotated[
        int | None, typer.Option(min=0, help="Deepest nesting shown; the model's is 0.")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Lines of the table; the smallest shares are folded.")
    ] = ROWS,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with figures and all tables to this file instead; as -o FILE.html."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Summary and table as JSON, for programs.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write to this file: *.html is a page, *.json JSON, *.md Markdown, all else text.",
        ),
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--md", help="The summary as Markdown instead.")
    ] = False,
    for_agent: Annotated[
        bool,
        typer.Option(
            "--for-agent",
            help="Findings, what is not known and what would settle it instead, as JSON of less "
            "than 6 kB.",
        ),
    ] = False,
) -> None:
    """Show a capture as a summary and a table. Needs neither torch nor a GPU."""
    from rich.console import Console

    from xsp.profiles import load

    asked = {".html": html is not None, ".json": as_json, ".md": as_markdown, ".agent": for_agent}
    forms = [form for form, is_asked in asked.items() if is_asked]
    if len(forms) > 1:
        raise XspError("--html, --json, --md and --for-agent are four forms; ask for one of them")
    form = forms[0] if forms else output.suffix if output is not None else ""
    if form == ".html" and html is None:
        html, output = output, None
    checked_all(html, output)
    # What is imported by now stays: to look through it for garbage takes a tenth of the report.
    gc.freeze()
    prof = load(capture)
    if html is not None:
        typer.echo(prof.to_html(html))
    elif form in asked:
        put(_written(prof, capture, form), output)
    elif output is not None:
        put(f"{profile_text(prof, width=WIDE, rows=rows, depth=depth)}\n", output)
    else:
        print_profile(prof, Console(), rows, depth)


def _written(prof: Profile, capture: Path, form: str) -> str:
    """The profile as JSON, its summary as Markdown, or for an agent."""
    from xsp.report.as_json import for_agent, report_json
    from xsp.report.markdown import summary_markdown

    if form == ".json":
        return report_json(prof)
    summary = summarize(prof, top=_MORE)
    return summary_markdown(summary) if form == ".md" else for_agent(summary, str(capture))
