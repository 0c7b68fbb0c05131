"""`xsp history`: how performance tests went over the commits that kept their baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xsp.cli.keeping import checked_all, put
from xsp.errors import BaselineError

MAIN = "main"


def history(
    test: Annotated[
        str, typer.Argument(help="Tests whose name has this in it; all by default.")
    ] = "",
    name: Annotated[str, typer.Option(help="The baseline.")] = MAIN,
    baselines: Annotated[Path, typer.Option(help="The folder of baselines.")] = Path(
        ".xsp/baselines"
    ),
    commits: Annotated[int, typer.Option(min=1, help="Commits that are read, the latest.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write to this file: *.html is a page of plots, *.json is JSON, all else is text.",
        ),
    ] = None,
) -> None:
    """Say how the times of performance tests went over the commits.

    Reads the baselines that git has kept. Needs neither torch nor a GPU.
    """
    from xsp.regression import history as of_commits
    from xsp.regression.history_page import history_html, history_json, history_lines

    checked_all(output)
    found = of_commits.history(baselines / name, commits=commits)
    found = found[found["test"].str.contains(test, regex=False)]
    if not len(found):
        raise BaselineError(f"no test with {test!r} in its name has a baseline {name!r}")
    kind = "" if output is None else output.suffix
    if kind == ".html":
        text = history_html(found)
    elif as_json or kind == ".json":
        text = history_json(found)
    else:
        text = "\n".join(history_lines(found))
    put(text, output)
