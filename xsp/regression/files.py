"""The files that a test run was asked for: its outcomes as an HTML page and as Markdown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from xsp.errors import XspError
from xsp.regression.outcome import Outcome
from xsp.regression.page import page
from xsp.regression.summary import markdown


def written(outcomes: Sequence[Outcome], html: str | None, md: str | None) -> list[str]:
    """Write the pages that were asked for; returns a sentence for each. Raises XspError where one cannot be written."""
    said = []
    if html is not None:
        said.append(_to_file(Path(html), page(outcomes), append=False))
    if md is not None:
        step = os.environ.get("GITHUB_STEP_SUMMARY", "")
        path = md or step or "xsp-summary.md"
        # GitHub shows what all commands of a step have written there, one after the other.
        said.append(_to_file(Path(path), markdown(outcomes), append=not md and bool(step)))
    return said


def _to_file(path: Path, text: str, *, append: bool) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise XspError(f"the summary cannot be written to {path}: {error}; name another file") from error
    return f"summary written to {path}"
