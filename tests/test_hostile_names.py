"""Names come from any program: what is printed or written as text is obeyed by nobody."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from captures import gpu_capture
from quick import LAYERS, TESTED
from torch import nn
from typer.testing import CliRunner

import xsp
from xsp.capture.file import Capture
from xsp.cli.application import app
from xsp.export.tables import write_tables
from xsp.regression.outcome import Outcome, State
from xsp.regression.summary import page, terminal_lines, to_markdown

NAME = "=1+1\x1b[31m\x00 \u202ered `code` [link](x) <b>|"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but for line feed and tab, and marks that turn the direction of text."""


def hostile(factor: int = 1) -> Capture:
    """The synthetic capture with hostile names everywhere."""
    capture = gpu_capture(name=NAME)
    tables = dict(capture.tables)
    for table in ("layers", "kernels", "library_calls", "calls"):
        tables[table] = tables[table].assign(name=NAME + tables[table]["name"])
    tables["runs"] = tables["runs"].assign(latency_ns=tables["runs"]["latency_ns"] * factor)
    warnings = [*capture.meta["warnings"], f"{NAME} is slow"]
    return Capture(capture.meta | {"warnings": warnings}, tables)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as a file."""
    return hostile().save(tmp_path_factory.mktemp("hostile") / "a.xsp")


def test_terminals_are_not_told_anything(path: Path, tmp_path: Path) -> None:
    """`xsp report`, `xsp compare` and a profile's text have no control characters."""
    other = hostile(3).save(tmp_path / "b.xsp")
    commands = (["report", path], ["compare", path, other], ["compare", path, other, "--md"])
    for command in commands:
        printed = CliRunner().invoke(app, list(map(str, command))).output
        assert "1+1" in printed
        assert not OBEYED.search(printed), command
    assert not OBEYED.search(repr(xsp.load(path)))


def test_markdown_shows_names_as_they_are(tmp_path: Path) -> None:
    """In a comparison's Markdown backticks, links, tags and bars of a name are text."""
    one, other = xsp.Profile(hostile()), xsp.Profile(hostile(3))
    text = xsp.compare(one, other).to_markdown()
    assert not OBEYED.search(text)
    assert not re.search(r"(?<!\\)`|(?<!\\)\[link|<b>", text)


def test_summaries_of_tests_show_names_as_they_are() -> None:
    """The pytest summary's terminal lines, Markdown and page obey no name."""
    outcome = Outcome(test=NAME, state=State.NEW, notes=(f"{NAME} is new",))
    for text in ("\n".join(terminal_lines([outcome])), to_markdown([outcome]), page([outcome])):
        assert not OBEYED.search(text)
    assert "<b>" not in page([outcome])


def test_pages_obey_no_name(path: Path, tmp_path: Path) -> None:
    """The HTML report has neither control characters nor a name's tags."""
    html = xsp.load(path).to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    own = html[: html.index("<script>")]
    assert not OBEYED.search(own)
    assert "<b>|" not in own


def test_spreadsheets_compute_no_name(path: Path, tmp_path: Path) -> None:
    """No cell of a table as CSV begins as a formula does, and none has control characters."""
    folder = write_tables(xsp.load(path), tmp_path / "csv", "csv")
    seen = 0
    for file in folder.glob("*.csv"):
        with file.open(newline="", encoding="utf-8") as rows:
            for cell in (cell for row in csv.reader(rows) for cell in row):
                assert not OBEYED.search(cell)
                assert not re.match(r"[=+@]|-[^\d]", cell) or cell in ("-inf", "-nan"), cell
                seen += "1+1" in cell
    assert seen > 100


def test_names_that_no_file_can_hold_are_measured_and_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a character in the name of a module or a function becomes the replacement character: the
    profile is made, shown, saved and opened, and what is logged can be written.
    """
    caplog.set_level("INFO", "xsp")
    half = "\ud800"
    model = nn.Sequential()
    model.add_module(f"{half}layer", nn.Linear(2, 2))

    def target(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = model(x)
        return result

    target.__qualname__ = f"target{half}"
    prof = xsp.measure(target, torch.ones(1, 2), **LAYERS)
    opened = xsp.load(prof.save(tmp_path / "a.xsp"))
    assert opened.name == "target\ufffd"
    assert "\ufffdlayer" in opened.tree()["name"].tolist()
    assert str(opened)
    assert all(record.getMessage().encode() for record in caplog.records)
    assert any("target\\ud800" in record.getMessage() for record in caplog.records)


def test_measuring_writes_nothing_of_kineto_to_stderr(tmp_path: Path) -> None:
    """torch's profiler says nothing at a measurement; what the program says comes through."""
    code = (
        "import os, sys, torch, xsp\n"
        "blocks = [torch.ones(4) for _ in range(50)]\n"
        "def work():\n"
        "    os.write(2, b'mine\\n')\n"
        "    blocks.pop()\n"
        "    return torch.ones(4).sum()\n"
        "prof = xsp.measure(work, iterations=2, warmup=1, progress=False)\n"
        "assert prof.memory_device == 'cpu', prof.warnings\n"
        "os.write(2, b'last\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=TESTED,
    )
    assert "USDT" not in done.stderr
    assert "Memory block" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[-1] == "last"
    assert lines.count("mine") > 3
