"""`xsp report`: what a capture says, in the terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from xsp.cli.keeping import checked_all, put
from xsp.report.table import ROWS, TableLine, laid_out
from xsp.report.text import NARROW, WIDE, footer_lines, header_lines, profile_text, try_lines

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


def print_profile(
    prof: Profile, console: Console, rows: int = ROWS, depth: int | None = None
) -> None:
    """Print header, table and footnote at the console's width, 80 to 120 characters."""
    width = min(max(console.width, NARROW), WIDE)
    table = laid_out(prof, width, rows, depth)
    lines = [*_header(header_lines(prof, width)), Text()]
    lines += [_line(table.header), *(_line(line) for line in table.lines), Text()]
    lines += [Text(line, style="dim") for line in footer_lines(prof, table, width)]
    lines += [
        Text.assemble((each[:_HEADING], "bold green"), each[_HEADING:])
        for each in try_lines(prof, width)
    ]
    for line in lines:
        # Never wrapped or cut: in a narrower terminal the terminal does it, in a pipe nobody
        # should.
        console.print(line, soft_wrap=True, highlight=False)


def _header(lines: list[str]) -> list[Text]:
    name, *facts = lines
    coloured = [Text(name, style="bold")]
    for fact in facts:
        style = "bold yellow" if fact.startswith("warning") else "dim"
        coloured.append(Text.assemble((fact[:_HEADING], style), fact[_HEADING:]))
    return coloured


def _line(line: TableLine) -> Text:
    style = "dim" if line.is_fold else _BY_LEVEL.get(line.level, "")
    text = Text("  ").join(
        Text(cell, style=_BY_COLUMN.get(name, style)) for name, cell in line.cells.items()
    )
    text.rstrip()
    return text


def report(
    capture: Annotated[
        Path, typer.Argument(help="A capture, *.xsp.", metavar="CAPTURE", show_default=False)
    ],
    depth: Annotated[
        int | None, typer.Option(min=0, help="Deepest nesting shown; the model's is 0.")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Lines of the table; the smallest shares are folded.")
    ] = ROWS,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Write a page with figures and all tables to this file instead; as -o FILE.html.",
            show_default=False,
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
            help="Write to this file: *.html is a page, *.json is JSON, all else is text.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show a capture as a summary and a table. Needs neither torch nor a GPU."""
    from rich.console import Console

    from xsp.profiles import load

    if output is not None and output.suffix == ".html":
        html, output = output, None
    checked_all(html, output)
    prof = load(capture)
    if html is not None:
        typer.echo(prof.to_html(html))
    elif as_json or (output is not None and output.suffix == ".json"):
        from xsp.report.data import report_json

        put(report_json(prof), output)
    elif output is not None:
        put(f"{profile_text(prof, width=WIDE, rows=rows, depth=depth)}\n", output)
    else:
        print_profile(prof, Console(), rows, depth)
