"""`xsp bricks`: a model's latency from the benchmarks of its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsp.cli.database import Place
from xsp.cli.graph_source import Shapes, Values, graph_from
from xsp.cli.shared import AsJson, BudgetS, JsonFile, NoProgress, silent
from xsp.errors import XspError
from xsp.extras import require

if TYPE_CHECKING:
    import pandas as pd

    from xsp.brickwork.result import Bricks

_ROWS = 12


def bricks(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="`file.py:function` as for `xsp profile`, `model.onnx`, a capture `*.xsp`, or a "
            "graph `*.json`; several share what they have in common.",
            metavar="TARGET...",
        ),
    ],
    granularity: Annotated[
        str, typer.Option(help="Layers of a brick at most; several with commas.")
    ] = "1",
    shape: Shapes = None,
    value: Values = None,
    place: Place = None,
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Measure what the database lacks.")
    ] = True,
    whole: Annotated[
        bool, typer.Option("--whole/--no-whole", help="Measure the models whole, in turn.")
    ] = True,
    statistics: Annotated[
        str, typer.Option(help="driver: until sums are known to 1 %; paper: 100 rounds.")
    ] = "driver",
    modules: Annotated[
        bool, typer.Option("--modules", help="Also take models apart into their own modules.")
    ] = False,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Correct for what neighbouring layers save.")
    ] = False,
    bracket: Annotated[
        bool, typer.Option("--bracket", help="Measure warm and cold loops too.")
    ] = False,
    threads: Annotated[int, typer.Option(help="Threads of torch, and CPUs to keep to.")] = 1,
    clock: Annotated[
        str, typer.Option(help="wall; or cpu, where other programs use the machine as well.")
    ] = "wall",
    budget_s: BudgetS = None,
    machines: Annotated[
        bool, typer.Option("--machines", help="Latencies on every machine of the database.")
    ] = False,
    rows: Annotated[int, typer.Option(help="Bricks to show at most; 0 for all.")] = _ROWS,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the bricks as a package of their own."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write tables and figures as a page.")] = None,
    as_json: AsJson = False,
    json_path: JsonFile = None,
    quiet: NoProgress = False,
) -> None:
    """Cut models into bricks, run each unique brick once, and put the latencies together.

    What was measured stays in the performance database: a run that was ended goes on where it was,
    and the next model that shares bricks is quick.
    """
    from xsp.brickwork.bricks import bricks as find

    wanted = sizes(granularity)
    targets, failures = _targets(sources, shape or [], value or [])
    found = find(
        *targets.values(),
        names=list(targets),
        database=place,
        run=run,
        granularity=wanted,
        whole=whole,
        statistics=statistics,
        overlap=overlap,
        modules=modules,
        bracket=bracket,
        threads=threads,
        clock=clock,
        budget_s=budget_s,
        progress=False if quiet else None,
    )
    for_programs = as_json and json_path is None
    with silent(for_programs):
        _print(found, failures, rows)
        if machines:
            _print_machines(found, place)
        _write(found, export, html, json_path)
    if for_programs:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    if failures or found.failures:
        raise typer.Exit(1)


def sizes(text: str) -> tuple[int, ...]:
    """`1,3,5` as numbers. Raises XspError for anything else."""
    try:
        return tuple(int(each) for each in text.split(",") if each.strip())
    except ValueError:
        raise XspError(
            f"--granularity must be whole numbers with commas, such as 1,3,5,10, not {text!r}"
        ) from None


def _targets(
    sources: list[str], shapes: list[str], values: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """What can be taken apart, by source, and sentences for what cannot be read."""
    targets: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for source in sources:
        try:
            targets[source] = _target(source, shapes, values)
        except XspError as error:
            failures[source] = str(error)
    if failures and not targets:
        raise XspError("; ".join(failures.values()))
    return targets, failures


def _target(source: str, shapes: list[str], values: list[str]) -> Any:
    kind = Path(source.partition(":")[0]).suffix
    if kind in {".onnx", ".xsp", ".json"}:
        own = (shapes, values) if kind == ".onnx" else ([], [])
        return graph_from(source, *own)
    require("torch")
    import torch

    from xsp.cli.target_file import TargetName

    torch.manual_seed(0)
    return TargetName.parsed(source).function()()


def _print(found: Bricks, failures: dict[str, str], rows: int) -> None:
    for name, why in {**failures, **found.failures}.items():
        typer.echo(f"{name}: {why}", err=True)
    for note in found.notes:
        typer.echo(note)
    if not found.subjects:
        return
    typer.echo(f"\nmodels on {found.machine.name}")
    _table(found.models.drop(columns=["normalised_ci"]))
    if len(found.subjects) > 1:
        typer.echo("\nall models together")
        _table(found.pools)
    finest = found.granularities[0]
    table = found.bricks(finest)
    shown = table if rows <= 0 else table.head(rows)
    typer.echo(f"\n{len(shown)} of {len(table)} unique bricks at granularity {finest}")
    _table(shown.drop(columns=["brick", "layers"]))


def _print_machines(found: Bricks, place: str | None) -> None:
    from xsp.brickwork.advice import machines_for
    from xsp.database.store import Store

    with Store(place) as store:
        table = machines_for(store, found.subjects)
    typer.echo("\non every machine of the database")
    _table(table)


def _table(table: pd.DataFrame) -> None:
    typer.echo(
        table.to_string(index=False, na_rep="–", float_format="{:.3f}".format, max_colwidth=44)
    )


def _write(found: Bricks, export: Path | None, html: Path | None, json_path: Path | None) -> None:
    if export is not None:
        typer.echo(f"bricks written to {found.export(export)}")
    if html is not None:
        typer.echo(f"page written to {found.to_html(html)}")
    if json_path is not None:
        from xsp.capture.writing import write_file

        text = json.dumps(found.to_dict(), indent=1) + "\n"
        typer.echo(f"tables written to {write_file(json_path, text.encode())}")
