"""`xsp report`: what a capture says, in the terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xsp.render.table import ROWS


def report(
    capture: Annotated[Path, typer.Argument(help="A capture, *.xsp.", metavar="CAPTURE", show_default=False)],
    depth: Annotated[int | None, typer.Option(min=0, help="Deepest nesting shown; the model's is 0.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Lines of the table; the smallest shares are folded.")] = ROWS,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with figures and all tables to this file instead.", show_default=False),
    ] = None,
) -> None:
    """Show a capture as a summary and a table. Needs neither torch nor a GPU."""
    from rich.console import Console

    from xsp.cli.terminal import print_profile
    from xsp.profiles import load

    prof = load(capture)
    if html is None:
        print_profile(prof, Console(), rows, depth)
    else:
        typer.echo(prof.to_html(html))
