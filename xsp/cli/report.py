"""`xsp report`: the latency table of a capture, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xsp.render.table import ROWS


def report(
    capture: Annotated[Path, typer.Argument(help="A capture, *.xsp.", metavar="CAPTURE", show_default=False)],
    depth: Annotated[int | None, typer.Option(min=0, help="Deepest nesting shown; the model's is 0.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Lines of the table; the smallest shares are folded.")] = ROWS,
) -> None:
    """Show a capture as a table. Needs neither torch nor a GPU."""
    from rich.console import Console

    from xsp.cli.terminal import print_profile
    from xsp.profiles import load

    print_profile(load(capture), Console(), rows, depth)
