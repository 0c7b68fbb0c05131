"""`xsp profile`: measure what a target function makes, print the report and write the capture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from xsp.errors import XspError


def profile(
    target: Annotated[
        str,
        typer.Argument(
            help="`file.py` (its function `target`), `file.py:function` or `package.module:function`. The function "
            "returns `(model, inputs)` or a callable without arguments, such as a training step.",
            metavar="TARGET",
            show_default=False,
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="After `--`: sys.argv of the target.", metavar="[-- ARGS...]")
    ] = None,
    levels: Annotated[str | None, typer.Option(help="Levels to trace, such as M/L/K; all by default.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Rounds; until the latency is known by default.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Warm-up runs; until settled by default.")] = None,
    budget_s: Annotated[float | None, typer.Option("--budget-s", help="Seconds for the rounds; 30 by default.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The capture to write; named after the target by default.")
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help="Hardware counters of every kernel: flops, dram, occupancy, tensor, l2 or CUPTI metrics, with commas "
            "between.",
            show_default=False,
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of random weights and inputs, and of the order of rungs.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing capture.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no report.")] = False,
) -> None:
    """Profile a model at every level that can be traced here."""
    from xsp.cli.target_file import TargetName

    name = TargetName.parsed(target)
    path = _checked(output or Path(f"{name.label}.xsp"), force)
    import torch

    from xsp.measurable import measurable
    from xsp.profiler import measure

    sys.argv = [target, *(arguments or [])]
    torch.manual_seed(seed)
    work = measurable(name.function()(), target)
    if not quiet:
        typer.echo(f"{target}: {work.description}")
    with torch.set_grad_enabled(work.grad):
        prof = measure(
            work.function,
            *work.args,
            levels=levels,
            iterations=iterations,
            warmup=warmup,
            budget_s=budget_s,
            seed=seed,
            progress=False if quiet else None,
            metrics=metrics,
            **work.kwargs,
        )
    # Saved before it is shown: a closed pipe must not cost the measurement.
    written = prof.save(path)
    if not quiet:
        from rich.console import Console

        from xsp.cli.terminal import print_profile

        typer.echo()
        print_profile(prof, Console())
    typer.echo(f"capture written to {written}")


def _checked(path: Path, force: bool) -> Path:
    """`path` if a capture can be written there; asked before measuring, which takes long."""
    if path.exists() and not force:
        raise XspError(f"{str(path)!r} exists and is not overwritten without --force; or name another with --output")
    if not path.parent.is_dir():
        raise XspError(f"there is no directory {str(path.parent)!r} to write {path.name!r} to; make it first")
    return path
