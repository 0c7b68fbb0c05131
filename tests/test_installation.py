"""What xsp does where only a part of what it can use is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from quick import TESTED

import xsp

HERE = Path(__file__).parent
CAPTURES = HERE.parent / "examples" / "captures"
WITHOUT_TORCH = ("torch", "cupti", "nvtx", "pynvml")
ONLY_ON_POSIX = ("fcntl", "resource", "termios", "pwd", "grp")

OPENED = """
import contextlib, io, json, sys
import xsp

found = {}
prof = xsp.example("resnet50")
found["text"] = str(prof)
found["tree"] = len(prof.tree())
found["layers"] = len(xsp.analysis.layer_information(prof))
found["ratio"] = xsp.compare(prof, prof).verdict.ratio
prof.save("again.xsp")
prof.to_html("report.html")
prof.to_perfetto("trace.pftrace")
prof.to_chrome("trace.json")
from xsp.cli import main
for command in (["report", "again.xsp"], ["compare", "again.xsp", "again.xsp"]):
    sys.argv = ["xsp", *command]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            main()
        except SystemExit as ended:
            found[command[0]] = (ended.code, len(said.getvalue()))
for name in ("measure", "profile", "sweep"):
    try:
        getattr(xsp, name)
    except xsp.MissingPackageError as error:
        found[name] = str(error)
found["torch"] = "torch" in sys.modules
json.dump(found, sys.stdout)
"""


def without(packages: tuple[str, ...], *script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script where these packages cannot be imported."""
    command = [sys.executable, str(HERE / "blocked.py"), ",".join(packages), *script]
    environment = {**os.environ, "PYTHONPATH": str(TESTED)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What a program finds that opens a capture without torch on a system that is not POSIX."""
    folder = tmp_path_factory.mktemp("opened")
    (folder / "opened.py").write_text(OPENED)
    outcome = without((*WITHOUT_TORCH, *ONLY_ON_POSIX), "opened.py", cwd=folder)
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout), folder


def test_a_capture_opens_without_torch(opened: tuple[dict[str, Any], Path]) -> None:
    """It is shown, analysed, compared, saved and exported as with torch, also on Windows and
    macOS as far as modules that only POSIX has are concerned.
    """
    found, folder = opened
    here = xsp.example("resnet50")
    assert "ResNet50" in found["text"]
    assert found["tree"] == len(here.tree())
    assert found["layers"] == len(xsp.analysis.layer_information(here))
    assert found["ratio"] == 1
    assert not found["torch"]
    assert all((folder / name).stat().st_size for name in ("report.html", "trace.pftrace"))


def test_the_command_line_reports_without_torch(opened: tuple[dict[str, Any], Path]) -> None:
    """`xsp report` and `xsp compare` print what they print elsewhere; noise in the capture leaves
    its times open.
    """
    found, _ = opened
    for command, status in (("report", 0), ("compare", 3)):
        assert found[command][0] == status
        assert found[command][1] > 100


@pytest.mark.parametrize("name", ["measure", "profile", "sweep"])
def test_what_needs_torch_says_so(opened: tuple[dict[str, Any], Path], name: str) -> None:
    """One sentence names torch, the way to get it, and what works without."""
    said = opened[0][name]
    assert said.startswith("torch is not installed, and measuring needs it")
    assert "pip install torch" in said
    assert "captures open" in said


@pytest.mark.parametrize("command", ["profile", "sweep"])
def test_a_command_that_needs_torch_says_so(tmp_path: Path, command: str) -> None:
    """One line on stderr and exit status 2, no traceback."""
    (tmp_path / "net.py").write_text("def target():\n    pass\n")
    script = "from xsp.cli import main\nmain()\n"
    (tmp_path / "run.py").write_text(script)
    outcome = without(WITHOUT_TORCH, "run.py", command, "net.py", cwd=tmp_path)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("xsp: torch is not installed")
    assert outcome.stderr.count("\n") == 1


def test_a_page_without_plotly_says_what_is_missing(tmp_path: Path) -> None:
    """`to_html` names plotly and the extra, and writes nothing; text needs neither."""
    (tmp_path / "page.py").write_text(
        "import xsp\nprof = xsp.example()\nassert str(prof)\n"
        "try:\n    prof.to_html('page.html')\n"
        "except xsp.MissingPackageError as error:\n    print(error)\n"
    )
    outcome = without(("plotly", "torch"), "page.py", cwd=tmp_path)
    assert "plotly is not installed" in outcome.stdout, outcome.stderr
    assert "extra html" in outcome.stdout
    assert not (tmp_path / "page.html").exists()


def test_a_missing_package_of_the_program_is_not_explained() -> None:
    """Only packages that xsp itself needs are; what a program of the user's lacks is its own
    error.
    """
    from xsp.extras import explained

    with pytest.raises(ModuleNotFoundError) as raised, explained():
        raise ModuleNotFoundError("No module named 'torch.missing'", name="torch.missing")
    assert not isinstance(raised.value, xsp.XspError)


def test_the_example_is_the_recorded_capture() -> None:
    """The capture in the package has the tables of the one in examples/, which the README's figures
    are of.
    """
    ours, recorded = xsp.example("resnet50"), xsp.load(CAPTURES / "h100_resnet50.xsp")
    assert ours.spans.equals(recorded.spans)
    assert ours.environment == recorded.environment


def test_an_unknown_example_names_those_there_are() -> None:
    """The error says which examples come with the package, and what opens a file."""
    with pytest.raises(xsp.CaptureError, match=r"no example 'alexnet'.*resnet50.*xsp\.load"):
        xsp.example("alexnet")


def test_the_page_on_installing_has_the_measured_figures() -> None:
    """Its rows are those of the committed result."""
    root = CAPTURES.parents[1]
    page = (root / "docs" / "install.md").read_text(encoding="utf-8")
    found = json.loads((root / "benchmarks" / "results" / "newcomer_cpu.json").read_text())
    for row in found["commands"]:
        assert f"| {row['name']} | {row['wall_s']} | {row['cpu_s']} |" in page
    assert f"{found['environment_bytes'] / 1e9:.2f} GB with torch" in page
