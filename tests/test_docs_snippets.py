"""The Python in the pages of docs/ runs as a reader would type it, page by page and from top to
bottom.

A block that cannot run in a test has a reason in the line before it:
`<!-- not run: needs a GPU -->`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
MAY_STAY_UNRUN = 12
"""Five of them are of integrations; four of these are run with the real libraries, by their own
tests.
"""


def blocks(page: Path) -> list[tuple[int, str, str | None]]:
    """Line, code, and why it is not run, of the page's blocks."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: found.start("code")].count("\n"), found["code"], found["why"])
        for found in _BLOCK.finditer(text)
    ]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name
)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the page runs after the blocks above it, beside the examples of a clone, and
    without a GPU.
    """
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    for line, code, why in blocks(page):
        if why is None:
            # The lines of a traceback are those of the page.
            exec(compile("\n" * line + code, str(page), "exec"), names)


def test_few_snippets_are_not_run() -> None:
    """Leaving a block out is the exception."""
    left_out = [
        f"{page.name}:{line}: {why}"
        for page in PAGES
        for line, _, why in blocks(page)
        if why is not None
    ]
    assert len(left_out) <= MAY_STAY_UNRUN, "\n".join(left_out)
