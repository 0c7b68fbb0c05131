"""Arguments and options that mean the same in several commands."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

CaptureFile = Annotated[Path, typer.Argument(help="A capture, *.xsp.", metavar="CAPTURE")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON and nothing else instead, for programs.")
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write JSON to this file too."),
]
BudgetS = Annotated[
    float | None, typer.Option("--budget-s", help="Seconds for measuring; no limit by default.")
]
NoProgress = Annotated[bool, typer.Option("--quiet", help="No progress.")]


@contextmanager
def silent(wanted: bool) -> Iterator[None]:
    """Where `wanted`, nothing said inside reaches standard output, which is for programs then."""
    with redirect_stdout(io.StringIO()) if wanted else nullcontext():
        yield
