"""`xsp serve`: the web page and the REST interface for evaluations."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xsp.cli.matrix import agents

if TYPE_CHECKING:
    from xsp.evaluation.dispatch.agents import Agents


def serve(
    manifests: Annotated[
        Path, typer.Argument(help="The folder of manifests that can be started.")
    ] = Path(),
    database: Annotated[
        str | None,
        typer.Option(
            help="A file for SQLite, or a URL; by default $XSP_DATABASE, else the user's."
        ),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(help="The folder of artifacts; by default $XSP_ARTIFACTS, else the user's."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. Other machines need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8311,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="XSP_SERVE_TOKEN",
            help="Ask everybody for it; made up where --host is not this machine alone.",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A further host name of this server."),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let Python that manifests name run.")
    ] = False,
    in_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(help="Evaluate on a Ray cluster: its address, or `local` to start one here."),
    ] = None,
) -> None:
    """Start, watch and compare evaluations in a browser; REST with an OpenAPI schema."""
    from xsp.evaluation.extra import needed

    with needed("xsp serve", "evaluation,web"):
        from xsp.evaluation.serving.platform import Places, Platform
        from xsp.evaluation.serving.server import Address, serve

    places = Places(database, artifacts, _folder(manifests), allow_code)
    platform = Platform(places, lambda: _agents(ray))
    address = Address(host, port, token, tuple(name or ()))
    serve(platform, address, lambda shown: _ready(shown, in_browser=in_browser))


def _ready(shown: str, *, in_browser: bool) -> None:
    typer.echo(f"xsp serves {shown}")
    if in_browser:
        # Some browsers are waited for until they have the page, which this thread serves.
        threading.Thread(target=_open, args=(shown,), daemon=True).start()


def _open(shown: str) -> None:
    if not webbrowser.open(shown):
        typer.echo(f"no browser could be opened; open {shown}", err=True)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise typer.BadParameter(f"{str(path)!r} is not a folder; name one with manifests")
    return path


def _agents(ray: str | None) -> Agents:
    """The server's own process measures nothing."""
    return agents(ray, apart=True)
