"""`xsp sweep`: profile what a target function makes for one batch size after another."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsp.capture.writing import writable_folder
from xsp.cli.keeping import keep
from xsp.cli.options import Arguments, Quiet, import_torch, with_measuring_options
from xsp.errors import TargetError, XspError
from xsp.measuring.options import Options
from xsp.sweeping.result import BATCH_SIZE, MANIFEST, Value

if TYPE_CHECKING:
    from xsp.profiles import Profile


@with_measuring_options
def sweep(
    target: Annotated[
        str,
        typer.Argument(
            help="`file.py:function` or `package.module:function`; `target` if no function is "
            "named. The function "
            "takes the batch size and returns `(model, inputs)` or a callable without arguments.",
            metavar="TARGET",
        ),
    ],
    arguments: Arguments = None,
    batch_sizes: Annotated[
        str, typer.Option(help="Batch sizes, or values of --over.")
    ] = "1,2,4,8,16,32",
    over: Annotated[
        str | None, typer.Option(help="Parameter of the function to change instead.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder of captures to write; named after the target by default.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write to a folder that has a sweep already.")
    ] = False,
    quiet: Quiet = False,
    *,
    options: Options,
) -> None:
    """Profile a model over batch sizes: throughput, and the optimal batch size."""
    from xsp.cli.target_file import TargetName

    name = TargetName.parsed(target)
    values = _values(batch_sizes)
    folder = _checked(output or Path(f"{name.label}-sweep"), force)
    import_torch(quiet=quiet)
    import torch

    from xsp.sweeping.measure import swept_over

    sys.argv = [target, *(arguments or [])]
    make = name.function()

    def seeded(*given: Any, **named: Any) -> Any:
        torch.manual_seed(options.seed)
        return make(*given, **named)

    swept = swept_over(
        seeded,
        [] if over else values,
        over={over: values} if over else None,
        after=None if quiet else _announced(over or BATCH_SIZE),
        options=options,
    )
    # Saved before it is shown: a closed pipe must not cost the measurement.
    written = keep(swept.save, folder)
    if not quiet:
        typer.echo(f"\n{swept}\n")
    typer.echo(f"captures written to {written}")


def _values(text: str) -> list[Value]:
    """Whole numbers and other numbers where they can be read as such, else the text between the
    commas.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise TargetError(
            f"--batch-sizes {text!r} has no values; separate them with commas, such as 1,2,4"
        )
    return [_value(part) for part in parts]


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _announced(parameter: str) -> Callable[[Value, Profile | str], None]:
    def announce(value: Value, found: Profile | str) -> None:
        what = (
            f"failed: {found}"
            if isinstance(found, str)
            else f"{found.latency_ms:.3f} ± {found.latency_ci_ms:.3f} ms"
        )
        typer.echo(f"{parameter} {value}: {what}")

    return announce


def _checked(folder: Path, force: bool) -> Path:
    """`folder` if a sweep can be written there; asked before measuring, which takes long."""
    if (folder / MANIFEST).exists() and not force:
        raise XspError(
            f"{str(folder)!r} has a sweep already; overwrite it with --force, or choose another "
            "folder with --output"
        )
    return writable_folder(folder)
