"""`xsp compare`: what changed between two captures, with an exit status for CI."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xsp.cli.keeping import checked_all
from xsp.cli.shared import AsJson, JsonFile
from xsp.comparing.text import HEADS, node_rows, verdict_word
from xsp.comparing.verdict import ALPHA, IMPROVED, NEUTRAL, REGRESSION, UNDECIDED
from xsp.errors import XspError
from xsp.words.labels import printable

if TYPE_CHECKING:
    from xsp.comparing.comparable import Comparable
    from xsp.comparing.comparison import Comparison
    from xsp.profiles import Profile

_STYLES = {REGRESSION: "bold red", IMPROVED: "green", NEUTRAL: "green", UNDECIDED: "yellow"}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print verdict, sentences and the layers that differ."""
    word = verdict_word(comparison)
    name = Text(f"{printable(comparison.candidate)}: ", style="bold")
    console.print(name.append(word, style=_STYLES.get(word, "yellow")), soft_wrap=True)
    for place, sentence in enumerate(comparison.sentences):
        console.print(Text(printable(sentence), style="bold" if place == 0 else ""))
    rows = node_rows(comparison)
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in HEADS:
        table.add_column(
            head,
            overflow="fold",
            justify="right" if head in ("before", "now", "difference") else "left",
        )
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console.print()
    console.print(table)


SLOWER, CANNOT_TELL = 1, 3
"""Exit statuses: a regression; undecided, or times that cannot be compared. 2 is xsp's for what it
cannot do.
"""


def compare(
    baseline: Annotated[
        Path,
        typer.Argument(help="A capture, *.xsp, or a baseline, *.json.", metavar="BASELINE"),
    ],
    candidate: Annotated[
        Path,
        typer.Argument(help="The newer one, likewise.", metavar="CANDIDATE"),
    ],
    threshold: Annotated[
        str, typer.Option(help="Slow-down that matters, such as 5% or 0.05.")
    ] = "5%",
    alpha: Annotated[float, typer.Option(help="Significance that a difference needs.")] = ALPHA,
    allow: Annotated[
        str,
        typer.Option(
            help="Facts that may differ, separated by commas: torch, driver, cuda, cudnn, gpu, "
            "inputs, …"
        ),
    ] = "",
    counts: Annotated[
        bool,
        typer.Option(
            "--counts",
            help="More kernels, calls, copies, waits or bytes are a regression too; times are "
            "optional.",
        ),
    ] = False,
    as_json: AsJson = False,
    json_path: JsonFile = None,
    html: Annotated[Path | None, typer.Option(help="Write an HTML page.")] = None,
    md: Annotated[bool, typer.Option("--md", help="Print GitHub-flavoured markdown.")] = False,
) -> None:
    """Say what is slower and where. Exit status 0: no regression; 1: a regression; 3: undecided or
    not comparable.

    Needs neither torch nor a GPU.
    """
    from xsp import compare as compare_profiles

    if md and as_json:
        raise XspError("--md and --json are two forms; ask for one of them")
    checked_all(json_path, html)
    share = parsed_share(threshold)
    facts = [name for name in allow.split(",") if name]
    both = _read(baseline), _read(candidate)
    found = compare_profiles(*both, threshold=share, alpha=alpha, allow=facts)
    text = json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n"
    if as_json and json_path is None:
        typer.echo(text, nl=False)
    else:
        _show(found, md=md)
    if json_path is not None:
        from xsp.capture.writing import write_file

        write_file(json_path, text.encode())
    if html is not None:
        found.to_html(html)
    raise typer.Exit(exit_status(found, counts))


def _show(found: Comparison, *, md: bool) -> None:
    if md:
        typer.echo(found.to_markdown(), nl=False)
        return
    from rich.console import Console

    print_comparison(found, Console())


def parsed_share(text: str) -> float:
    """`5%`, `5 %` or `0.05` as 0.05.

    Raises XspError for anything else, and for shares below 0.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    if match is None:
        raise XspError(f"the threshold must be a share such as 5% or 0.05, not {text!r}")
    return float(match[1]) / (100 if match[2] else 1)


def exit_status(found: Comparison, counts: bool) -> int:
    """0, SLOWER or CANNOT_TELL. Without comparable times the counts alone can tell a regression."""
    if found.verdict.name == REGRESSION or ((counts or found.refusal) and found.counts_grew):
        return SLOWER
    if found.refusal:
        return 0 if counts else CANNOT_TELL
    return CANNOT_TELL if found.verdict.name == UNDECIDED else 0


def _read(path: Path) -> Profile | Comparable:
    """A capture, or a baseline as `Comparable.to_json` writes it."""
    if path.suffix != ".json":
        from xsp.profiles import load

        return load(path)
    from xsp.capture.limits import text_of
    from xsp.comparing.comparable import Comparable

    try:
        return Comparable.from_json(text_of(path))
    except (OSError, UnicodeDecodeError) as error:
        raise XspError(
            f"{str(path)!r} cannot be read ({error}); give a capture or a baseline"
        ) from error
