"""Test runs of the pytest plugin, each in a project of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from virtual_clock import VirtualClock

# Loaded here, so that each of the inner test runs need not load them again.

PROJECT = Path(__file__).parent / "plain_package"

# By the module's name, whether or not the entry point is installed.
PLUGIN = ("-p", "no:xsp", "-p", "xsp.pytest_plugin", "-p", "no:cacheprovider")

Run = Callable[..., pytest.RunResult]

QUICK = 'pytestmark = pytest.mark.xsp(levels="ML", iterations=8, warmup=1, patience_s=0)\n'

HEAD = f"""
import time
import pytest
import torch
from torch import nn
{QUICK}
"""

SLEEPER = (
    HEAD
    + "def test_sleeper(xsp):\n"
    + "    xsp(lambda: time.sleep({seconds}), iterations=16, max_slowdown=2)\n"
)

LINEAR = (
    HEAD
    + "def test_linear(xsp):\n"
    + "    xsp(nn.Sequential(nn.Linear(4, 4), {more}).eval(), torch.ones(2, 4), max_slowdown=99)\n"
)


@pytest.fixture
def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, virtual_clock: VirtualClock
) -> Iterator[Run]:
    """Run the tests in the folder, one thread of torch, on a virtual clock, and nothing that
    remembers the source files' former content.
    """
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    # Other plugins take seconds to load, each time.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda *options: pytester.runpytest_inprocess(*PLUGIN, *options)
    torch.set_num_threads(threads)


def baselines(folder: Path, name: str = "main") -> list[Path]:
    """The files of a baseline."""
    return sorted((folder / ".xsp" / "baselines" / name).rglob("*.json"))


def states(result: pytest.RunResult) -> dict[str, str]:
    """State by test in the summary's table."""
    lines = result.outlines[
        next(i for i, line in enumerate(result.outlines) if line.strip("=- ") == "xsp") + 2 :
    ]
    cells = [line.split("  ") for line in lines]
    return {
        row[0]: next(cell for cell in row[1:] if cell.strip()).strip()
        for row in cells
        if "::" in row[0] and len(row) > 2
    }


def replaced(path: Path, old: str, new: str) -> None:
    """Edit a file."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
