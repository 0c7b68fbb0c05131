"""The README's code runs, its commands work, and its figures are the measured ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from table_rows import table_rows

import xsp
from xsp.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results" / "overhead_h200.json"
CAPTURES = ROOT / "examples" / "captures"
CONDITIONS = ("xsp M/K", "xsp M/L", "xsp M/L/Lib", "xsp M/L/Lib/K", "torch.profiler")


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [
    line.partition("#")[0].split()
    for block in blocks(README, "sh")
    for line in block.splitlines()
    if line.startswith("xsp ")
]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with the examples where a clone has them."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_snippets_run(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python blocks run one after the other, as a reader would type them."""
    snippets = blocks(README, "python")
    assert len(snippets) > 3
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), names)
    assert "Conv2d" in capsys.readouterr().out
    assert (clone / "step.xsp").is_file()


def test_capture_format_snippet_runs(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tables of a capture open without xsp, as docs/captures.md shows it."""
    [snippet] = blocks((ROOT / "docs" / "captures.md").read_text(encoding="utf-8"), "python")
    assert "xsp." not in snippet.replace(".xsp", "")
    exec(compile(snippet, "captures.md", "exec"), {})
    assert "M/L/Lib/K" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_work(
    command: list[str],
    clone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Every xsp command of the README ends well and prints something."""
    if command[1] == "run":
        # A program that is run as it is has a process of its own.
        subprocess.run([sys.executable, "-m", "xsp", *command[1:]], check=True, timeout=240)
    else:
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    assert capfd.readouterr().out


def overhead_table(results: dict[str, Any]) -> str:
    """The README's rows from the committed results."""
    rows = []
    for name, program in results["programs"].items():
        latency, half = program["unprofiled_ms"]
        ratios = [
            f"{program[one]['ratio']:.3f} ± {program[one]['half_width_95']:.3f}"
            for one in CONDITIONS
        ]
        rows.append([name, f"{latency:.1f} ± {half:.1f}", *ratios])
    return table_rows(rows)


def test_slow_down_is_the_measured_one() -> None:
    """The README's table of slow-downs is that of the committed results, rounded; machine and
    rounds are named.
    """
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert overhead_table(results) in README, (
        f"put these rows into README.md:\n{overhead_table(results)}"
    )
    for fact in (
        results["environment"]["gpu"],
        f"torch {results['environment']['torch']}",
        f"{results['rounds']} rounds",
    ):
        assert fact in README


def closure_table() -> str:
    """The README's rows from the bundled captures."""
    rows = []
    for path in sorted(CAPTURES.glob("h100_*.xsp")):
        prof = xsp.load(path)
        closure = prof.closure_error.iloc[-1]
        added = prof.overhead().query("level == 'MODEL'")["added_share"].sum()
        cells = [
            path.name,
            f"{prof.latency_ms:.2f} ± {prof.latency_ci_ms:.2f}",
            f"{added:+.1%}",
            f"{closure['error']:+.1%}",
            f"{closure['low']:+.1%} to {closure['high']:+.1%}",
        ]
        rows.append(cells)
    return table_rows(rows)


def test_closure_is_that_of_the_captures() -> None:
    """The README's table of closure errors is that of the bundled captures."""
    assert closure_table() in README, f"put these rows into README.md:\n{closure_table()}"
