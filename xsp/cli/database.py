"""`xsp database`: what was measured of layers, and taking it to other machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xsp.cli.keeping import checked_all, put

if TYPE_CHECKING:
    import pandas as pd

database = typer.Typer(
    help="What was measured of layers: list it, export, import and merge it.",
    no_args_is_help=True,
    add_completion=False,
)

Place = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="A file for SQLite, or a URL such as postgresql+psycopg://user@host/name; by default "
        "$XSP_DATABASE, else a file in the user's data folder.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="All of it as JSON, for programs.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write to this file: *.json is JSON, all else is text."),
]
_ROWS = 40


@database.command("list")
def list_(
    place: Place = None,
    operator: Annotated[str, typer.Option(help="Entries of one operator only.")] = "",
    rows: Annotated[int, typer.Option(help="Entries to show at most; 0 for all.")] = _ROWS,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Print the entries, the newest last."""
    from xsp.database.store import Store

    checked_all(output)
    with Store(place) as store:
        found, heading = store.table(), f"{store.place}: "
    heading += f"{len(found)} entries"
    if operator:
        found = found[found["operator"] == operator]
    if _wants_json(as_json, output):
        put(_json(found), output)
    else:
        put(_text(found.drop(columns="layer"), rows, heading), output)


@database.command()
def machines(place: Place = None, as_json: AsJson = False, output: Output = None) -> None:
    """Print the machines that entries are of, with clocks, driver and library versions."""
    from xsp.database.store import Store

    checked_all(output)
    with Store(place) as store:
        found = store.machines()
    lines = (
        f"{digest}  {name}: {entries} entries\n    {facts}\n"
        for digest, name, entries, facts in found.itertuples(index=False)
    )
    if _wants_json(as_json, output):
        put(_json(found.assign(facts=found["facts"].map(json.loads))), output)
    else:
        put("".join(lines), output)


@database.command("export")
def export_(
    path: Annotated[Path, typer.Argument(help="The file to write; *.gz is compressed.")],
    place: Place = None,
) -> None:
    """Write all entries to a file, for another machine."""
    from xsp.database.merge import export_entries
    from xsp.database.store import Store

    with Store(place) as store:
        typer.echo(f"{export_entries(store, path)} entries written to {path}")


@database.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A file of `xsp database export`.")],
    place: Place = None,
) -> None:
    """Take the entries of an exported file in; of two the one measured later stays."""
    from xsp.database.merge import import_entries
    from xsp.database.store import Store

    with Store(place) as store:
        typer.echo(f"{import_entries(store, path)} entries of {path} imported into {store.place}")


@database.command()
def merge(
    other: Annotated[str, typer.Argument(help="Another database: a file or a URL.")],
    place: Place = None,
) -> None:
    """Take the entries of another database in."""
    from xsp.database.merge import merge as merged
    from xsp.database.store import Store

    with Store(place) as store, Store(other) as source:
        typer.echo(f"{merged(store, source)} entries of {other} merged into {store.place}")


def _wants_json(as_json: bool, output: Path | None) -> bool:
    return as_json or (output is not None and output.suffix == ".json")


def _json(found: pd.DataFrame) -> str:
    return f"{found.to_json(orient='records', indent=1)}\n"


def _text(found: pd.DataFrame, rows: int, heading: str) -> str:
    lines, shown = [heading], found if rows <= 0 else found.tail(rows)
    if len(shown) < len(found):
        lines.append(f"the last {len(shown)} of {len(found)}; --rows 0 shows all")
    if len(shown):
        lines.append(shown.to_string(index=False, max_colwidth=60))
    return "\n".join([*lines, ""])
