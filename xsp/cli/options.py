"""Arguments and options that `xsp profile` and `xsp sweep` share."""

from __future__ import annotations

from typing import Annotated

import typer

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
