"""`xsp compare`: what it prints and writes, and the exit status that a CI job goes by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from captures import gpu_capture
from typer.testing import CliRunner

import xsp
from xsp.capture.file import Capture
from xsp.cli.application import app
from xsp.cli.compare import parsed_share
from xsp.comparing.comparable import comparable

ROUNDS = 40


def saved(
    folder: Path,
    name: str,
    *,
    factor: float = 1.0,
    driver: str = "580.1",
    kernel: str | None = None,
    rounds: int = ROUNDS,
) -> str:
    """The synthetic capture with more rounds of the model, all so many times as long, as a file."""
    capture = gpu_capture()
    runs, spans, kernels = (
        capture.tables["runs"],
        capture.tables["spans"],
        capture.tables["kernels"].copy(),
    )
    first = runs[runs["rung"] == "M"].iloc[[0]]
    more = [
        first.assign(run=len(runs) + n, round=3 + n, latency_ns=1_000_000 + 1000 * (n * 7 % 10))
        for n in range(rounds)
    ]

    every = pd.concat([runs, *more], ignore_index=True)
    every["latency_ns"] = (every["latency_ns"] * factor).astype(int)
    if kernel is not None:
        kernels.loc[1, "name"] = kernel
    meta = capture.meta | {"environment": {**capture.meta["environment"], "driver": driver}}
    tables = capture.tables | {"runs": every, "spans": spans, "kernels": kernels}
    return str(Capture(meta, tables).save(folder / name))


def test_no_difference_is_status_0(tmp_path: Path) -> None:
    """The same capture twice: exit status 0, and the text says that nothing changed."""
    path = saved(tmp_path, "a.xsp")
    found = CliRunner().invoke(app, ["compare", path, path])
    assert found.exit_code == 0, found.output
    assert "neutral" in found.output
    assert "No layer changed" in found.output


def test_a_slower_model_is_status_1(tmp_path: Path) -> None:
    """A latency 10 % longer is a regression at the default threshold, and none at 20 %."""
    paths = [saved(tmp_path, "a.xsp"), saved(tmp_path, "b.xsp", factor=1.1)]
    assert CliRunner().invoke(app, ["compare", *paths]).exit_code == 1
    assert CliRunner().invoke(app, ["compare", *paths, "--threshold", "20%"]).exit_code == 0


def test_another_machine_is_status_3(tmp_path: Path) -> None:
    """Times of another driver are not compared: status 3, 0 if only counts were asked for, or if it
    is allowed.
    """
    paths = [saved(tmp_path, "a.xsp"), saved(tmp_path, "b.xsp", driver="575.3")]
    found = CliRunner().invoke(app, ["compare", *paths])
    assert found.exit_code == 3
    assert "575.3" in found.output
    assert CliRunner().invoke(app, ["compare", *paths, "--counts"]).exit_code == 0
    assert CliRunner().invoke(app, ["compare", *paths, "--allow", "driver"]).exit_code == 0


def test_too_few_runs_are_status_3(tmp_path: Path) -> None:
    """Three runs cannot tell: undecided is neither a pass nor a regression."""
    paths = [saved(tmp_path, "a.xsp", rounds=0), saved(tmp_path, "b.xsp", factor=1.5, rounds=0)]
    found = CliRunner().invoke(app, ["compare", *paths])
    assert found.exit_code == 3
    assert "undecided" in found.output


def test_files_are_written(tmp_path: Path) -> None:
    """JSON holds the sentences, the page holds them as text, and a name from the program cannot
    become markup.
    """
    paths = [saved(tmp_path, "a.xsp"), saved(tmp_path, "b.xsp", kernel="<img src=x>")]
    html, data = tmp_path / "c.html", tmp_path / "c.json"
    found = CliRunner().invoke(app, ["compare", *paths, "--html", str(html), "-o", str(data)])
    assert found.exit_code == 0, found.output
    told = json.loads(data.read_text())
    assert "block.conv" in told["sentences"][0]
    assert told["verdict"]["name"] == "neutral"
    page = html.read_text()
    assert "block.conv" in page
    assert "<img" not in page
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_markdown_has_the_verdict_and_a_table(tmp_path: Path) -> None:
    """`--md` prints a heading with the verdict, the sentences as a list and the layers as
    a table.
    """
    paths = [saved(tmp_path, "a.xsp"), saved(tmp_path, "b.xsp", factor=1.1, kernel="other")]
    lines = CliRunner().invoke(app, ["compare", *paths, "--md"]).output.splitlines()
    assert lines[0] == "### Net: regression"
    assert lines[2].startswith("- `block.conv`")
    assert any(line.startswith("| block.conv | changed |") for line in lines)


def test_a_baseline_in_json_can_be_compared(tmp_path: Path) -> None:
    """A file of `Comparable.to_json` stands for the capture that it was made of."""
    capture, kept = saved(tmp_path, "a.xsp"), tmp_path / "a.json"
    kept.write_text(comparable(xsp.load(capture)).to_json())
    assert CliRunner().invoke(app, ["compare", str(kept), capture]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("2.5 %", 0.025), ("0.1", 0.1), (".02", 0.02), ("0", 0.0)]
)
def test_a_threshold_can_be_written_in_two_ways(text: str, share: float) -> None:
    """Per cent or a share."""
    assert parsed_share(text) == pytest.approx(share)


def test_what_cannot_be_done_is_status_2_and_one_line(
    tmp_path: Path, refused: Callable[..., str]
) -> None:
    """A file that is not there or is damaged, a threshold or alpha that is no number and a folder
    that is not there: one line, and status 2, not the 1 of a regression.
    """
    path, damaged, binary = (
        saved(tmp_path, "a.xsp"),
        tmp_path / "damaged.json",
        tmp_path / "binary.json",
    )
    damaged.write_text('{"format": "xsp comparable", "version": 1}')
    binary.write_bytes(b"\xff\xfe")
    for arguments in (
        [path, str(damaged)],
        [path, str(binary)],
        [path, path, "--alpha", "2"],
        [path, "missing.xsp"],
        [path, "missing.json"],
        [path, path, "--threshold", "much"],
        [path, path, "--html", str(tmp_path / "no" / "c.html")],
    ):
        assert refused("compare", *arguments).startswith("xsp: ")
