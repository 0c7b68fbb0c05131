"""The examples run as they are documented to."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import xsp
from xsp.database.store import Store
from xsp.evaluation.records.reading import evaluations

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script: str, *arguments: str) -> str:
    """Run an example as a user does; return what it printed."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("resnet50.py", ("--image", "32")),
        ("transformer.py", ("--tokens", "8")),
        ("train_step.py", ("--image", "32")),
    ],
)
def test_script_saves_a_capture(
    script: str,
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Running an example prints its profile and saves a capture that opens again with the same
    table.
    """
    monkeypatch.setenv("COLUMNS", "120")
    capture = tmp_path / "example.xsp"
    common = ("--device", "cpu", "--dtype", "float32", "--batch", "2", "--budget-s", "0")
    path = str(EXAMPLES / script)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [path, *arguments, *common, "--output", str(capture)])
    runpy.run_path(path, run_name="__main__")
    prof = xsp.load(capture)
    assert len(prof.tree()) > 1
    assert str(prof) in capsys.readouterr().out


def test_two_scenarios_are_evaluated(tmp_path: Path) -> None:
    """The example of evaluations trains two networks, evaluates each online and in batches, and
    shows all out of its database with the accuracy that they were trained to.
    """
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    chosen = ("--predictors", "torch", "--epochs", "6")
    printed = run("evaluate.py", *chosen, "--output", str(tmp_path))
    assert printed.count("evaluation ") == 4
    with Store(tmp_path / "evaluations.sqlite") as store:
        table = evaluations(store)
    assert table["model"].tolist() == ["digits-cnn"] * 2 + ["digits-mlp"] * 2
    assert table["scenario"].tolist() == ["single_stream", "offline"] * 2
    assert table["valid"].all()
    assert (table["top_1"] > 0.8).all()
    assert table["throughput"].notna().all()
