"""The examples run as they are documented to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import xsp

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script: str, *arguments: str) -> str:
    """Run an example as a user does; return what it printed."""
    command = [
        sys.executable,
        str(EXAMPLES / script),
        "--device",
        "cpu",
        "--dtype",
        "float32",
        *arguments,
    ]
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
    script: str, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running an example prints its profile and saves a capture that opens again with the same
    table.
    """
    monkeypatch.setenv("COLUMNS", "120")
    capture = tmp_path / "example.xsp"
    printed = run(script, *arguments, "--batch", "2", "--budget-s", "0", "--output", str(capture))
    prof = xsp.load(capture)
    assert len(prof.tree()) > 1
    assert str(prof) in printed
