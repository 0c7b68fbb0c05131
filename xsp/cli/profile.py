"""`xsp profile`: measure what a target function makes, print the report and write the capture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from xsp.cli.keeping import kept, new_file
from xsp.cli.options import Arguments, Iterations, Levels, Seed, Warmup


def profile(
    target: Annotated[
        str,
        typer.Argument(
            help="`file.py` (its function `target`), `file.py:function` or "
            "`package.module:function`. The function "
            "returns `(model, inputs)` or a callable without arguments, such as a training step.",
            metavar="TARGET",
            show_default=False,
        ),
    ],
    arguments: Arguments = None,
    levels: Levels = None,
    iterations: Iterations = None,
    warmup: Warmup = None,
    budget_s: Annotated[
        float | None, typer.Option("--budget-s", help="Seconds for the rounds; 30 by default.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The capture to write; named after the target by default.")
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help="Hardware counters of every kernel: flops, dram, occupancy, tensor, l2 or CUPTI "
            "metrics, with commas "
            "between.",
            show_default=False,
        ),
    ] = "",
    caches: Annotated[
        str,
        typer.Option(
            help='How kernels find the caches while counters are collected: "in place" '
            'or "flushed".'
        ),
    ] = "in place",
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing capture.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no report.")] = False,
) -> None:
    """Profile a model at every level that can be traced here."""
    from xsp.cli.target_file import TargetName

    name = TargetName.parsed(target)
    path = new_file(output or Path(f"{name.label}.xsp"), force)
    import torch

    from xsp.measuring.measurable import measurable
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
            caches=caches,
            **work.kwargs,
        )
    # Saved before it is shown: a closed pipe must not cost the measurement.
    written = kept(prof.save, path)
    if not quiet:
        from rich.console import Console

        from xsp.cli.report import print_profile

        typer.echo()
        print_profile(prof, Console())
    typer.echo(f"capture written to {written}")
