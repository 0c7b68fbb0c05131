"""`xsp profile`: measure what a target function makes, print the report and write the capture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from xsp.cli.keeping import keep, new_file
from xsp.cli.options import Arguments, Quiet, import_torch, with_measuring_options
from xsp.measuring.options import Options


@with_measuring_options
def profile(
    target: Annotated[
        str,
        typer.Argument(
            help="`file.py` (its function `target`), `file.py:function` or "
            "`package.module:function`. The function "
            "returns `(model, inputs)` or a callable without arguments, such as a training step.",
            metavar="TARGET",
        ),
    ],
    arguments: Arguments = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The capture to write; named after the target by default."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing capture.")] = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Profile a model at every level that can be traced here."""
    from xsp.cli.target_file import TargetName

    name = TargetName.parsed(target)
    path = new_file(output or Path(f"{name.label}.xsp"), force)
    import_torch(quiet=quiet)
    import torch

    from xsp.measuring.measurable import measurable
    from xsp.profiler import measure_with

    sys.argv = [target, *(arguments or [])]
    torch.manual_seed(options.seed)
    work = measurable(name.function()(), target)
    if not quiet:
        typer.echo(f"{target}: {work.description}")
    with torch.set_grad_enabled(work.grad):
        prof = measure_with(work.function, work.args, work.kwargs, options)
    # Saved before it is shown: a closed pipe must not cost the measurement.
    written = keep(prof.save, path)
    if not quiet:
        from rich.console import Console

        from xsp.cli.report import print_profile

        typer.echo()
        print_profile(prof, Console())
    typer.echo(f"capture written to {written}")
