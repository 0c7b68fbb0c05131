"""Arguments and options that mean the same in several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CaptureFile = Annotated[
    Path, typer.Argument(help="A capture, *.xsp.", metavar="CAPTURE", show_default=False)
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", "-o", help="Write it as JSON.", show_default=False)
]
BudgetS = Annotated[
    float | None, typer.Option("--budget-s", help="Seconds for measuring; no limit by default.")
]
NoProgress = Annotated[bool, typer.Option("--quiet", help="No progress.")]
