"""The benchmark that measures the paper's results again, and the page that it makes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import paper
import paper_page
import paper_values
import pytest
from paper_rows import capture_row, described, optimal_batch
from small_models import Convolutional, ready

import xsp
from xsp.profiles import Profile

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "paper.md"
RESULTS = ROOT / "benchmarks" / "results" / "paper_h200.json"
MIB = 2**20


def results_of(profiles: dict[int, Profile]) -> dict[str, Any]:
    """What the benchmark writes of these profiles by batch size, read back from JSON."""
    rows = {str(batch): capture_row(each) for batch, each in profiles.items()}
    values = {
        "measured": {"model": "small", "pixels": 32},
        "machine": described(next(iter(profiles.values()))),
        "ways": {"float32": rows},
        "optimal": {"float32": optimal_batch(profiles)},
        "failures": {},
    }
    found: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return found


@pytest.fixture(scope="module")
def on_cpu() -> Profile:
    """A small network on the CPU, where no kernels can be traced."""
    model, inputs = ready(Convolutional)
    return xsp.measure(model, *inputs, iterations=3, warmup=1, progress=False)


def page_of(results: dict[str, Any]) -> str:
    """The tables as one text."""
    return "\n".join(paper_page.page_lines(results))


def cells(text: str, title: str, first: str) -> list[str]:
    """The cells of the row that begins with `first`, in the section of this title."""
    section = text.partition(title)[2].partition("\n## ")[0]
    [row] = [line for line in section.splitlines() if line.startswith(f"| {first} |")][:1]
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_without_kernels_the_page_says_so_and_shows_no_zeros(on_cpu: Profile) -> None:
    """Of captures without kernels the page says that kernels, rooflines and the GPU's time are
    missing; no figure of the GPU is shown as 0.
    """
    text = page_of(results_of({1: on_cpu, 2: on_cpu}))
    assert "Measured: torchvision's `small` with images of 32 × 32 pixels on one" in text
    assert "**No kernels were traced**" in text
    assert "Not measured: batch sizes 4, 8, 16, 32, 64, 128, 256." in text
    over = cells(text, "## Table VI", "1")
    assert float(over[2].split()[0].replace(",", "")) == pytest.approx(on_cpu.latency_ms, abs=1e-3)
    assert over[7] == "–"
    assert over[9] == "–"
    assert cells(text, "Where the time goes", "1")[1:] == ["–"] * 6
    assert "Not known: no kernels were traced." in text
    assert "Nothing beside it here: no kernels were traced." in text
    assert "| kernels' time in the latency | 92.4 % | – |" in text


def test_with_kernels_the_page_has_the_analyses_figures() -> None:
    """Of a capture with kernels the page has latency, kernels' time and work as the analyses give
    them, beside the paper's.
    """
    prof = xsp.example("resnet50")
    text = page_of(results_of({32: prof}))
    [model] = xsp.analysis.kernels_by_model(prof).to_dict("records")
    over = cells(text, "## Table VI", "32")
    assert over[1] == "40.03"
    assert over[7] == f"{model['kernel_latency_ms']:,.3f}"
    assert over[9] == f"{100 * model['kernel_latency_ms'] / prof.latency_ms:.1f} %"
    top = xsp.analysis.kernels_by_name(prof).iloc[0]
    here = cells(text, "## Table IV", "here")
    assert here[2:4] == [str(top["count"]), f"{top['latency_ms']:,.3f}"]
    layer = xsp.analysis.layer_information(prof).nlargest(1, "latency_ms").iloc[0]
    row = cells(text, "The five of most latency", f"`{layer['name']}`")
    assert row[3] == f"{layer['latency_ms']:,.3f}"
    assert "No kernels were traced" not in text


def test_the_page_is_what_the_command_makes_of_the_committed_results() -> None:
    """docs/paper.md has the tables of benchmarks/results/paper_h200.json, which names no folder of
    the machine that measured it; all batch sizes are there, with kernels and hardware counters.
    """
    text = RESULTS.read_text(encoding="utf-8")
    results = json.loads(text)
    page = PAGE.read_text(encoding="utf-8")
    assert paper_page.with_figures(page, results) == page, (
        "make the page again: python benchmarks/paper.py --page-only "
        "--output benchmarks/results/paper_h200.json --page docs/paper.md"
    )
    assert '"/' not in text
    plain = results["ways"]["float32"]
    assert sorted(map(int, plain)) == sorted(paper_values.BATCHES)
    assert all(row["counts"]["kernels"] for row in plain.values())
    assert results["measured"] == {"model": "resnet50", "pixels": 224}
    assert {row["model"]["source"] for row in plain.values()} == {"counters"}


def test_the_papers_figures_are_copied_right() -> None:
    """The paper's rows agree with themselves: intensity is FLOPs by MiB read and written, the rate
    FLOPs by the kernels' time.
    """
    layers = [(row[4:], row) for row in paper_values.LAYERS.values()]
    kernels = [(row[3:10], row) for row in paper_values.KERNELS]
    names = [((row[2], *row[4:10]), row) for row in paper_values.NAMES]
    for (ms, gflop, read, written, _occupancy, intensity, rate), row in layers + kernels + names:
        assert gflop * 1e9 / ((read + written) * MIB) == pytest.approx(intensity, abs=0.3), row
        assert gflop / ms == pytest.approx(rate, abs=0.02), row
    model, kernels_ms, *_ = paper_values.BATCHES[256]
    assert 256e3 / model == pytest.approx(paper_values.SUMMARY[1], abs=0.1)
    assert kernels_ms / model == pytest.approx(0.9243, abs=1e-4)


def test_every_way_of_computing_has_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that PyTorch keeps of one way cannot be those of the next: each is measured by a
    process that is asked for this way alone.
    """
    asked: list[str] = []

    def run(command: list[str], check: bool) -> None:
        assert not check
        options = paper._options(command[2:])
        assert options.measure_only
        assert options.batches == (1, 2)
        asked.extend(options.ways)

    monkeypatch.setattr(subprocess, "run", run)
    given = ["--ways", "float32,autotuned", "--batches", "1,2"]
    monkeypatch.setattr(sys, "argv", ["paper.py", *given])
    paper._measure_each(paper._options(given))
    assert asked == ["float32", "autotuned"]


def test_what_lies_in_the_folder_is_not_measured_again(
    on_cpu: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later run measures what an earlier one left; a batch size that fails is recorded with its
    reason and the next one goes on; captures of two models do not come into one folder.
    """
    options = argparse.Namespace(
        folder=tmp_path,
        ways=("float32",),
        batches=(1, 2, 4),
        device="cpu",
        model="small",
        pixels=32,
        budget_s=1e6,
        reserve_s=0.0,
    )
    asked: list[int] = []

    def profiled(_way: object, batch: int, _options: object) -> Profile:
        asked.append(batch)
        if len(asked) == 2:
            raise MemoryError("no room")
        return on_cpu

    monkeypatch.setattr(paper, "_profile", profiled)
    paper._measure(options)
    assert asked == [1, 2, 4]
    found = paper._results(tmp_path)
    assert found["failures"] == {"float32 2": "MemoryError: no room"}
    assert list(found["ways"]["float32"]) == ["1", "4"]
    paper._measure(options)
    assert asked == [1, 2, 4, 2]
    assert paper._read(tmp_path / paper.FAILURES) == {}
    options.model = "another"
    with pytest.raises(SystemExit, match="has captures of"):
        paper._measure(options)
    options.model, options.budget_s = "small", 0.0
    (tmp_path / "float32_001.xsp").unlink()
    paper._measure(options)
    assert asked == [1, 2, 4, 2]
