"""The pages in docs/ describe the code as it is."""

from __future__ import annotations

import pkgutil
import re
import runpy
from pathlib import Path

import pandas as pd
import pytest

import xsp
from xsp.capture.schema import OPTIONAL_TABLES
from xsp.capture.schema import REQUIRED_TABLES as TABLES
from xsp.doubts import Slug

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CAPTURE = ROOT / "examples" / "captures" / "h100_resnet50.xsp"


def page(name: str) -> str:
    """Text of a page in docs/."""
    return (DOCS / name).read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    """No page links to a file of the repository that is not there."""
    for place in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)", place.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (place.parent / link).exists(), (
                f"{place.name}: {link}"
            )


def test_design_names_every_member_of_a_profile() -> None:
    """Every public member of a profile is among the public names in docs/design.md."""
    names = page("design.md").partition("## Public names")[2].partition("\n## ")[0]
    members = {name for name in dir(xsp.Profile) if not name.startswith("_")} - {"fill"}
    assert {name for name in members if f"prof.{name}" not in names} == set()


def test_every_column_of_a_capture_is_described() -> None:
    """docs/captures.md has a row for every table, with every column."""
    described = dict(
        re.findall(r"^\| `(\w+)` \| [^|]+ \| (.*) \|$", page("captures.md"), flags=re.MULTILINE)
    )
    tables = xsp.load(CAPTURE).raw_tables(*TABLES)
    for name, text in ((name, text) for name, text in described.items() if name in TABLES):
        columns = [
            column for column in tables[name].columns if not re.match(r"(grid|block)_", column)
        ]
        assert [column for column in columns if not re.search(rf"\b{column}\b", text)] == [], name
    assert set(described) == {*TABLES, *OPTIONAL_TABLES}


def test_every_warning_has_a_paragraph() -> None:
    """The slug at the end of a warning is a heading in docs/warnings.md, and no heading there is
    out of date.
    """
    written = set(
        re.findall(
            r'with_slug\(\s*"([a-z-]+)"',
            "".join(path.read_text() for path in (ROOT / "xsp").rglob("*.py")),
        )
    )
    written |= {slug.value for slug in Slug}
    text = (DOCS / "warnings.md").read_text()
    assert written == set(re.findall(r"^### ([a-z-]+)$", text, re.MULTILINE))


def test_every_column_of_a_profile_is_described() -> None:
    """docs/columns.md names every column of every table that a profile has, under the table's
    heading.
    """
    prof = xsp.load(CAPTURE)
    sections = re.split(r"^## prof\.(\w+).*$", page("columns.md"), flags=re.MULTILINE)
    described = dict(zip(sections[1::2], sections[2::2], strict=True))
    tables = {name: getattr(prof, name) for name in described}
    tables = {name: table() if callable(table) else table for name, table in tables.items()}
    assert {
        name: [c for c in table.columns if f"`{c}`" not in described[name]]
        for name, table in tables.items()
    } == {name: [] for name in tables}
    docs = {name: getattr(getattr(xsp.Profile, name, None), "__doc__", "") for name in dir(prof)}
    members = {
        name: getattr(prof, name)
        for name, text in docs.items()
        if not name.startswith(("_", "to_")) and not (text or "").startswith("Deprecated")
    }
    frames = {name for name, value in members.items() if isinstance(value, pd.DataFrame)}
    assert frames <= set(described)


def test_tests_that_pages_name_exist() -> None:
    """Each `test_file.py::test_name` of a page is a test of that file."""
    named = {
        (file, name)
        for path in DOCS.rglob("*.md")
        for file, name in re.findall(r"`(test_\w+\.py)::(\w+)", path.read_text())
    }
    assert len(named) > 20
    files = {file: (ROOT / "tests" / file).read_text() for file, _ in named}
    assert {(file, name) for file, name in named if f"def {name}(" not in files[file]} == set()


def test_the_picture_of_the_terminal_can_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/images/terminal.py draws what `xsp report` prints."""
    script = runpy.run_path(str(DOCS / "images" / "terminal.py"))
    monkeypatch.setitem(script["main"].__globals__, "HERE", tmp_path)
    script["main"]()
    assert "ResNet" in (tmp_path / "terminal.svg").read_text()


def test_names_that_pages_use_exist() -> None:
    """Each dotted name of xsp in a page is a module, or a name in one."""
    named = {
        name
        for path in (ROOT / "README.md", *DOCS.rglob("*.md"))
        for name in re.findall(r"(?<![\w./-])(xsp(?:\.[a-zA-Z]\w*)+)\(", path.read_text())
    }
    assert len(named) > 20
    for name in sorted(named):
        assert pkgutil.resolve_name(name) is not None
