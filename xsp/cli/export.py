"""`xsp export`: a capture in a format of other tools. A format is a row of FORMATS; `otlp` is sent,
not written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsp.cli.keeping import new_file
from xsp.cli.shared import CaptureFile
from xsp.errors import XspError

if TYPE_CHECKING:
    from xsp.profiles import Profile


@dataclass(frozen=True)
class Format:
    """How a profile is written: `write(prof, path, **choice)`; the choice of a run is passed if
    `of_one_run`.

    `ending` is appended to the capture's stem where no output is named.
    """

    ending: str
    what: str
    write: Callable[..., object]
    of_one_run: bool = False
    is_folder: bool = False


def _tables(form: str) -> Callable[[Profile, Path], object]:
    def write(prof: Profile, path: Path) -> object:
        from xsp.export.tables import write_tables

        return write_tables(prof, path, form)

    return write


FORMATS = {
    "perfetto": Format(
        ".pftrace", "one run, for ui.perfetto.dev", lambda p, at, **c: p.to_perfetto(at, **c), True
    ),
    "chrome": Format(
        ".json.gz",
        "one run, as torch.profiler writes it",
        lambda p, at, **c: p.to_chrome(at, **c),
        True,
    ),
    "speedscope": Format(
        ".speedscope.json",
        "cost of each node, and one run, for speedscope.app",
        lambda p, at, **c: p.to_speedscope(at, **c),
        True,
    ),
    "folded": Format(
        ".folded", "cost of each node, for flamegraph.pl", lambda p, at: p.to_folded(at)
    ),
    "html": Format(".html", "a report", lambda p, at: p.to_html(at)),
    "csv": Format("_csv", "a folder of tables", _tables("csv"), is_folder=True),
    "parquet": Format("_parquet", "a folder of tables", _tables("parquet"), is_folder=True),
}


OTLP = "otlp"


def export(
    capture: CaptureFile,
    to: Annotated[
        str,
        typer.Option(
            help="; ".join(
                [
                    *(f"{name}: {form.what}" for name, form in FORMATS.items()),
                    "otlp: one run, to a receiver",
                ]
            )
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="What to write; named after the capture by default."),
    ] = None,
    run: Annotated[
        int | None,
        typer.Option(help="Run to show; the last of the rung by default."),
    ] = None,
    rung: Annotated[
        str | None,
        typer.Option(help="Rung to show, such as M/L; the deepest by default."),
    ] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Times without the tracers' cost.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(help="otlp: URL of the receiver; OTEL_* variables by default."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="otlp: http/protobuf or grpc; OTEL_* variables by default."),
    ] = None,
    levels: Annotated[
        str | None,
        typer.Option(help="otlp: levels to send, such as M/L; all by default."),
    ] = None,
    min_duration_us: Annotated[
        float, typer.Option(help="otlp: leave shorter spans out.", show_default=False)
    ] = 0.0,
) -> None:
    """Write a capture for other tools. Needs neither torch nor a GPU."""
    if to == OTLP:
        how = {
            "endpoint": endpoint,
            "protocol": protocol,
            "levels": levels,
            "run": run,
            "corrected": corrected,
        }
        _send(capture, output, rung, how | {"min_duration_ns": round(min_duration_us * 1e3)})
        return
    if to not in FORMATS:
        raise XspError(f"there is no format {to!r}; the formats are {', '.join(FORMATS)}, {OTLP}")
    if endpoint or protocol or levels or min_duration_us:
        raise XspError(
            "--endpoint, --protocol, --levels and --min-duration-us say which spans are sent and "
            f"where; {to} is a file, so leave them out"
        )
    _write(capture, to, output, force, {"run": run, "rung": rung, "corrected": corrected})


def _write(
    capture: Path, to: str, output: Path | None, force: bool, choice: dict[str, Any]
) -> None:
    """Write one of FORMATS; `choice` says what a trace of one run shows."""
    form = FORMATS[to]
    if not form.of_one_run and any(value not in (None, False) for value in choice.values()):
        raise XspError(
            f"--run, --rung and --corrected choose what a trace shows; {to} has all runs, so leave "
            "them out"
        )
    path = output or capture.with_name(capture.stem + form.ending)
    if not form.is_folder:
        new_file(path, force)
    from xsp.profiles import load

    form.write(load(capture), path, **(choice if form.of_one_run else {}))
    typer.echo(f"{to} written to {path}")


def _send(capture: Path, output: Path | None, rung: str | None, how: dict[str, Any]) -> None:
    if output is not None or rung is not None:
        raise XspError(
            "otlp writes no file and selects a run by its number: leave out --output and --rung"
        )
    from xsp.profiles import load

    count = load(capture).to_otlp(**how)
    typer.echo(f"{count} spans sent")
