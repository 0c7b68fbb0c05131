"""The application that the subcommands belong to. Importing it loads neither torch nor CUDA."""

from __future__ import annotations

from typing import Annotated

import typer

from xsp.cli.bound import bound
from xsp.cli.bricks import bricks
from xsp.cli.compare import compare
from xsp.cli.database import database
from xsp.cli.doctor import doctor
from xsp.cli.export import export
from xsp.cli.graph import graph
from xsp.cli.import_ import import_
from xsp.cli.profile import profile
from xsp.cli.report import report
from xsp.cli.sweep import sweep

app = typer.Typer(
    help="Where the time of a PyTorch model goes, from the call you make down to the GPU kernel.",
    no_args_is_help=True,
    add_completion=False,
    # A user's traceback is shown as Python shows it.
    pretty_exceptions_enable=False,
)
app.command()(profile)
app.command()(sweep)
app.command()(report)
app.command()(compare)
app.command()(export)
app.command("import")(import_)
app.command()(graph)
app.command()(bound)
app.command()(bricks)
app.add_typer(database, name="database")
app.command()(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        import xsp

        typer.echo(f"xsp {xsp.__version__ or 'from a source tree, not installed'}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass
