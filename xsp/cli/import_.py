"""`xsp import`: a trace of another tool as a capture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xsp.cli.keeping import new_file
from xsp.errors import XspError

_SQLITE = b"SQLite format 3\x00"
_REPORTS = (".nsys-rep", ".qdrep")
"""Reports of Nsight Systems, which only its own programs read."""


def import_(
    trace: Annotated[
        Path,
        typer.Argument(
            help="A trace of torch.profiler (*.json, *.json.gz) or an SQLite export of Nsight "
            "Systems.",
            metavar="TRACE",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The capture; named after the trace by default."),
    ] = None,
    runs: Annotated[
        str | None,
        typer.Option(
            help="How the names of the annotations or NVTX ranges begin that are one run each; "
            "ProfilerStep# for "
            "torch.profiler by default."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing capture.")] = False,
) -> None:
    """Make a capture of a trace that another tool recorded. Needs neither torch nor a GPU."""
    if trace.suffix in _REPORTS:
        raise XspError(
            f"{str(trace)!r} is a report of Nsight Systems, which only nsys reads; import what "
            f"`nsys export --type sqlite {trace.name}` makes of it"
        )
    named = trace.with_name(trace.name.removesuffix(".gz").rpartition(".")[0] + ".xsp")
    path = new_file(output or named, force)
    if _is_sqlite(trace):
        from xsp.imports.nsys import from_nsys

        prof = from_nsys(trace, runs=runs)
    else:
        from xsp.imports.kineto import STEP, from_kineto

        prof = from_kineto(trace, runs=runs or STEP)
    typer.echo(f"capture written to {prof.save(path)}")


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE
