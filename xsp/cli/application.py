"""The application that the subcommands belong to. Importing it loads neither torch nor CUDA, and a
subcommand's module only when that subcommand is called or listed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_COMMANDS = {
    "run": "run",
    "profile": "profile",
    "sweep": "sweep",
    "report": "report",
    "compare": "compare",
    "export": "export",
    "import": "import_",
    "graph": "graph",
    "bound": "bound",
    "bricks": "bricks",
    "database": "database",
    "doctor": "doctor",
}
"""By name, the module of xsp.cli and the function, or group of subcommands, of that name in it."""


class _Commands(TyperGroup):
    """Finds subcommands when they are asked for: what one of them imports takes a second.

    Typer's own classes for commands are click's, or copies of them, by its version.
    """

    def list_commands(self, _context: Any) -> list[str]:
        """All of them, in the order in which they are shown."""
        return list(_COMMANDS)

    def get_command(self, _context: Any, name: str) -> Any:
        """The subcommand of this name, None if there is none."""
        if name not in self.commands and name in _COMMANDS:
            self.commands[name] = _command(name)
        return self.commands.get(name)


def _command(name: str) -> Any:
    found = getattr(import_module(f"xsp.cli.{_COMMANDS[name]}"), _COMMANDS[name])
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        found = alone
    return typer.main.get_command(found)


app = typer.Typer(
    cls=_Commands,
    help="Where the time of a PyTorch model goes, from the call you make down to the GPU kernel.",
    no_args_is_help=True,
    add_completion=False,
    # A user's traceback is shown as Python shows it.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
