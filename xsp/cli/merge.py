"""`xsp merge`: the captures of one job's ranks side by side."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xsp.capture.writing import write_file
from xsp.cli.shared import AsJson, JsonFile
from xsp.words.numbers import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd

    from xsp.distributed.job import Job

_ROWS = 12
_INTERVAL = "_ci_ms"
_HEADS = {
    "collectives": "By collective of a step: waiting of all ranks together, moving of the quickest",
    "transfers": "By send of a step and the receive that took it: how much later it was posted",
    "ranks": "By rank",
    "stragglers": "Where a rank takes longer than the others",
}


def merge(
    captures: Annotated[
        list[Path],
        typer.Argument(help="The captures of a job's ranks, *.xsp.", metavar="CAPTURE..."),
    ],
    rows: Annotated[int, typer.Option(min=1, help="Lines of each table.")] = _ROWS,
    as_json: AsJson = False,
    json_path: JsonFile = None,
) -> None:
    """Say who waits for whom among the ranks of a job, and where that rank is slow."""
    from xsp.distributed.job import merge as merged

    job = merged(captures)
    said, tables = job.sentences, _tables(job)
    whole = {"sentences": said, **{name: _records(table) for name, table in tables.items()}}
    text = json.dumps(whole, indent=1) + "\n"
    if json_path is not None:
        write_file(json_path, text.encode())
    elif as_json:
        typer.echo(text, nl=False)
        return
    console = Console(highlight=False)
    for sentence in said:
        console.print(sentence, markup=False)
    for name, table in tables.items():
        if len(table):
            console.print(_shown(_HEADS[name], table, rows))


def _tables(job: Job) -> dict[str, pd.DataFrame]:
    return {
        "collectives": job.collectives(),
        "transfers": job.transfers(),
        "ranks": job.ranks(),
        "stragglers": job.stragglers(),
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: null for what is not known."""
    found: list[dict[str, Any]] = json.loads(table.to_json(orient="records"))
    return found


def _shown(title: str, table: pd.DataFrame, rows: int) -> Table:
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    columns = _with_intervals(table.head(rows))
    for name in columns:
        is_number = table[name].dtype.kind in "if"
        shown.add_column(name.replace("_", " "), justify="right" if is_number else "left")
    for row in zip(*columns.values(), strict=True):
        shown.add_row(*map(escape, row))
    left = len(table) - rows
    if left > 0:
        shown.caption = f"{left} more; --rows shows them, --json has all"
    return shown


def _with_intervals(table: pd.DataFrame) -> dict[str, list[str]]:
    """Cells by column; half an interval stands beside its number."""
    found = {}
    for name in table.columns:
        if name.endswith(_INTERVAL):
            continue
        cells = [_cell(value) for value in table[name]]
        interval = name.removesuffix("_ms") + _INTERVAL
        if interval in table:
            halves = [_cell(value) for value in table[interval]]
            cells = [f"{cell} ± {half}" for cell, half in zip(cells, halves, strict=True)]
        found[name] = cells
    return found


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return UNKNOWN if math.isnan(value) else f"{value:.4g}"
    return str(value)
