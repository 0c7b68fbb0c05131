"""Arguments and options that `xsp profile` and `xsp sweep` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xsp.errors import XspError


def new_capture(path: Path, force: bool) -> Path:
    """`path` if a capture can be written there. Raises XspError where a file would be lost or no
    directory is.
    """
    if path.exists() and not force:
        raise XspError(
            f"{str(path)!r} exists and is not overwritten without --force; or name another with "
            "--output"
        )
    if not path.parent.is_dir():
        raise XspError(
            f"there is no directory {str(path.parent)!r} to write {path.name!r} to; make it first"
        )
    return path


Arguments = Annotated[
    list[str] | None,
    typer.Argument(help="After `--`: sys.argv of the target.", metavar="[-- ARGS...]"),
]
Levels = Annotated[str | None, typer.Option(help="Levels to trace, such as M/L/K; all by default.")]
Iterations = Annotated[
    int | None, typer.Option(help="Rounds; until the latency is known by default.")
]
Warmup = Annotated[int | None, typer.Option(help="Warm-up runs; until settled by default.")]
Seed = Annotated[
    int, typer.Option(help="Seed of random weights and inputs, and of the order of rungs.")
]
