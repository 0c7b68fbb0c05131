"""`make demo` shows and writes what the README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd

import xsp

DEMO = Path(__file__).parent.parent / "examples" / "demo.py"


def test_demo(tmp_path: Path) -> None:
    """The demo prints the live profile and three H100 captures, and writes capture, table, reports
    and traces.
    """
    command = [
        sys.executable,
        str(DEMO),
        "--output",
        str(tmp_path),
        "--image",
        "32",
        "--budget-s",
        "0",
    ]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("NVIDIA H100") == 3
    live = xsp.load(tmp_path / "resnet50.xsp")
    table = pd.read_csv(tmp_path / "resnet50.csv")
    assert table["path"].tolist() == live.tree()["path"].tolist()
    pages = sorted(page.name for page in tmp_path.glob("*.html"))
    assert pages == [
        "h100_resnet50.html",
        "h100_train_step.html",
        "h100_transformer.html",
        "resnet50.html",
    ]
    for page in pages:
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert text.startswith("<!doctype html>")
        assert 'id="hierarchy"' in text
    traces = sorted(trace.name for trace in tmp_path.glob("*.pftrace"))
    assert traces == [page.replace(".html", ".pftrace") for page in pages]
