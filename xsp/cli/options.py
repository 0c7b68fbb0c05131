"""Arguments and options that `xsp profile` and `xsp sweep` share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from xsp.extras import require
from xsp.measuring.options import Options, default_of, help_of, textual

Arguments = Annotated[
    list[str] | None,
    typer.Argument(help="After `--`: sys.argv of the target.", metavar="[-- ARGS...]"),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="The capture to write.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing capture.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no report.")]

_SEED = "seed of random weights and inputs, and of the order of rungs within rounds."


def with_measuring_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that also takes the options of `xsp.measure` that are text, and is handed them,
    checked, as `options`; `--quiet` switches the progress bar off.
    """
    given = inspect.signature(command, eval_str=True)
    own = [each for each in given.parameters.values() if each.name != "options"]
    named = [_parameter(name, reads) for name, reads in textual().items()]

    @wraps(command)
    def called(**values: Any) -> None:
        measuring = {each.name: values.pop(each.name) for each in named}
        progress = False if values["quiet"] else None
        command(**values, options=Options.of(**measuring, progress=progress))

    called.__signature__ = given.replace(parameters=[*own, *named])  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in (*own, *named)}
    return called


def import_torch(*, quiet: bool) -> None:
    """Import what measures, which takes seconds, and say so on a terminal.

    Raises MissingPackageError where torch is not installed.
    """
    from rich.console import Console

    with nullcontext() if quiet else Console(stderr=True).status("importing torch"):
        require("torch")
        import_module("xsp.profiler")


def _parameter(name: str, reads: type) -> inspect.Parameter:
    text = _SEED if name == "seed" else help_of(name)
    flag = f"--{name.replace('_', '-')}"
    flags = f"{flag}/--no-{flag[2:]}" if reads is bool and default_of(name) is None else flag
    shown = typer.Option(flags, help=text[0].upper() + text[1:])
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[reads | None, shown],
    )
