"""`xsp graph`: the layers of a model and who feeds whom, without running or measuring anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xsp.cli.graph_source import Shapes, Values, graph_from
from xsp.cli.shared import AsJson, JsonFile
from xsp.errors import GraphError
from xsp.words.labels import printable

if TYPE_CHECKING:
    from xsp.graphs.graph import Graph

_ROWS = 40


def graph(
    sources: Annotated[
        list[str],
        typer.Argument(
            help="`file.py:function` as for `xsp profile`, `model.onnx`, a capture `*.xsp`, or a "
            "graph `*.json`; several are compared.",
            metavar="SOURCE...",
        ),
    ],
    shape: Shapes = None,
    value: Values = None,
    unique: Annotated[
        bool, typer.Option("--unique", help="Each distinct layer once, with its count.")
    ] = False,
    rows: Annotated[int, typer.Option(help="Layers to show at most; 0 for all.")] = _ROWS,
    as_json: AsJson = False,
    json_path: JsonFile = None,
    draw: Annotated[Path | None, typer.Option(help="Draw the graph as a page.")] = None,
) -> None:
    """Print the layers of a model: operator, shapes, parameters and who feeds whom.

    Of several models it says how many layers they share.
    """
    found = [graph_from(source, shape or [], value or []) for source in sources]
    if (as_json or json_path or draw) and len(found) > 1:
        raise GraphError("--json, --output and --draw take one model; give one SOURCE")
    if as_json and json_path is None:
        typer.echo(found[0].to_json())
        if draw is not None:
            from xsp.graphs.drawing import write_drawing

            write_drawing(found[0], draw)
        return
    console = Console()
    for each in found:
        print_graph(each, console, rows, unique)
    if len(found) > 1:
        _print_shares(sources, found, console)
    if json_path is not None:
        from xsp.capture.writing import write_file

        typer.echo(f"graph written to {write_file(json_path, found[0].to_json().encode())}")
    if draw is not None:
        from xsp.graphs.drawing import write_drawing

        typer.echo(f"drawing written to {write_drawing(found[0], draw)}")


def print_graph(found: Graph, console: Console, rows: int, unique: bool) -> None:
    """Print a heading, notes and a table of layers."""
    from xsp.graphs.unique import unique_layers

    distinct = unique_layers([found])
    share = len(distinct) / max(len(found), 1)
    heading = (
        f"{printable(found.name)}: {len(found)} layers, {len(distinct)} unique ({share:.1%}), "
        f"read from {found.source}"
    )
    console.print(Text(heading, style="bold"), soft_wrap=True)
    if not found.dependencies_known:
        note = "the layers are in the order in which they ran; who feeds whom is not recorded"
        console.print(Text(note, style="yellow"), soft_wrap=True)
    for note in found.notes:
        console.print(Text(printable(note), style="yellow"), soft_wrap=True)
    lines: list[tuple[str, ...]]
    if unique:
        lines = [(str(each.count), *_cells(each.layer.to_dict())) for each in distinct]
    else:
        feeds = [str(each) for each in found.table()["feeds"]]
        lines = [
            (layer.name, *_cells(layer.to_dict()), users)
            for layer, users in zip(found.layers, feeds, strict=True)
        ]
    first = "count" if unique else "layer"
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in (first, "operator", "inputs", "weights", "parameters"):
        table.add_column(head, overflow="fold")
    if not unique:
        table.add_column("feeds", overflow="fold")
    shown = lines if rows <= 0 else lines[:rows]
    for line in shown:
        table.add_row(*(Text(printable(cell)) for cell in line))
    console.print(table)
    if len(shown) < len(lines):
        console.print(
            Text(f"… and {len(lines) - len(shown)} more; --rows 0 shows all", style="dim")
        )


def _cells(layer: dict[str, object]) -> tuple[str, str, str, str]:
    parameters = layer["parameters"]
    return (
        str(layer["operator"]),
        _tensors(layer["inputs"]),
        _tensors(layer["weights"]),
        json.dumps(parameters)[1:-1].replace('"', "") if parameters else "",
    )


def _tensors(rows: object) -> str:
    assert isinstance(rows, list | tuple)  # noqa: S101 # as Layer.to_dict writes it
    return " ".join(f"{row['dtype']}{list(row['shape'])}".replace(" ", "") for row in rows)


def _print_shares(sources: list[str], found: list[Graph], console: Console) -> None:
    from xsp.graphs.unique import shares, similarity

    named = dict(zip(sources, found, strict=True))
    console.print()
    console.print(
        shares(named).to_string(index=False, formatters={"unique_share": "{:.1%}".format})
    )
    console.print("\nJaccard similarity of unique layers")
    console.print(similarity(named).to_string(float_format="{:.2f}".format), soft_wrap=True)
