"""The application that the subcommands belong to. Importing it loads neither torch nor CUDA, and a
subcommand's module only when that subcommand is called or listed.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from xsp.errors import SettingError

_MODULES = {"import": "import_"}
"""Modules of xsp.cli that are named otherwise than their command."""

_COMMANDS = {
    "run": "Run a script as it is and profile it along.",
    "profile": "Profile a model at every level that can be traced here.",
    "sweep": "Profile a model over batch sizes: throughput, and the optimal batch size.",
    "report": "Show a capture as a summary and a table.",
    "compare": "Say what is slower and where.",
    "merge": "Say who waits for whom among the ranks of a job, and where that rank is slow.",
    "history": "Say how the times of performance tests went over the commits.",
    "export": "Write a capture for other tools.",
    "import": "Make a capture of a trace that another tool recorded.",
    "graph": "Print the layers of a model.",
    "bound": "Measure every layer through every algorithm, and say how fast the model could be.",
    "bricks": "Cut models into bricks, run each unique brick once, and put the latencies together.",
    "database": "What was measured of layers: list it, export, import and merge it.",
    "evaluate": "Evaluate a model as a manifest specifies it, and keep everything in the database.",
    "serve": "Start, watch and compare evaluations in a browser; REST with an OpenAPI schema.",
    "doctor": "Say level by level what can be traced here, what is missing and how to get it.",
}
"""By name, a sentence for the list of commands: what a command imports takes a second. The function
or group of a command has its name in the module of that name.
"""


class _Commands(TyperGroup):
    """Imports a subcommand when it is called; until then there is its sentence.

    Typer's own classes for commands are click's, or copies of them, by its version.
    """

    def list_commands(self, _context: Any) -> list[str]:
        """All of them, in the order in which they are shown."""
        return list(_COMMANDS)

    def get_command(self, _context: Any, name: str) -> Any:
        """The subcommand of this name, None if there is none."""
        if name not in _COMMANDS:
            return None
        return self.commands.get(name) or TyperCommand(name, help=_COMMANDS[name])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The subcommand that is called, with the arguments that it gets."""
        name = args[0] if args else ""
        if name in _WROTE_JSON:
            args = [name, *_with_output(args[1:])]
        if name in _COMMANDS and name not in self.commands:
            self.commands[name] = _command(name)
        return super().resolve_command(ctx, args)


_WROTE_JSON = {"bound", "bricks", "compare", "graph", "merge"}
"""Commands whose `--json FILE` wrote to a file until 0.1."""


def _with_output(args: list[str]) -> list[str]:
    """`--json FILE.json` and `--json=FILE`, which are deprecated, as `-o FILE`: `--json` alone
    prints JSON, as it does for every command.
    """
    found: list[str] = []
    for arg in args:
        old = arg.startswith("--json=") or (found[-1:] == ["--json"] and arg.endswith(".json"))
        if not old:
            found.append(arg)
            continue
        if found[-1:] == ["--json"]:
            found.pop()
        path = arg.removeprefix("--json=")
        found += ["-o", path]
        typer.echo(
            f"xsp: `--json FILE` is deprecated: use -o {path}; --json alone prints JSON", err=True
        )
    return found


def _command(name: str) -> Any:
    module = _MODULES.get(name, name)
    with _nothing_collected():
        found = getattr(import_module(f"xsp.cli.{module}"), module)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name)(found)
        found = alone
    return typer.main.get_command(found)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage collection inside: what is imported stays, and to look through it again and again
    takes a tenth of an import.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


app = typer.Typer(
    cls=_Commands,
    help="Where the time of a PyTorch model goes, from the call you make down to the GPU kernel.",
    no_args_is_help=True,
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
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    _log_as_set()


def _log_as_set() -> None:
    """What the logger `xsp` is told goes to standard error from the level on that is set (`log`,
    `XSP_LOG`). Raises SettingError for another word.
    """
    from xsp.settings import setting

    told = setting("log")
    if told is None:
        return
    import logging

    level = str(told.value).upper()
    if level not in _LOG_LEVELS:
        raise SettingError(f"{told.place} is {told.value!r}; it must be one of {_LOG_LEVELS}")
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("xsp").setLevel(level)


_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
