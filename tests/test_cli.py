"""The command line, run as users run it."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from captures import gpu_capture
from quick import TESTED
from rich.console import Console
from typer.testing import CliRunner

import xsp
from xsp.cli.application import _COMMANDS, app

MODEL = """
import sys
import torch
from torch import nn

def target():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval()
    return model, torch.ones(2, 4)

def training():
    return nn.Linear(4, 4), {"input": torch.ones(2, 4)}

def step():
    model = nn.Linear(4, 4)
    return lambda: model(torch.ones(2, 4)).sum().backward()

def arguments():
    width = int(sys.argv[1])
    return nn.Linear(width, width).eval(), (torch.ones(1, width),)

def number():
    return 3

def no_inputs():
    return nn.Linear(4, 4)

def fails():
    class Net(nn.Module):
        def forward(self, x):
            raise ArithmeticError("the model's own")
    return Net().eval(), torch.ones(1)
"""
SHORT = ("--iterations", "2", "--warmup", "0", "--levels", "M/L")


def _xsp(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # Run elsewhere than in the source tree: the package that is tested must be found there too.
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(Path(xsp.__file__).parents[1])}
    command = [sys.executable, "-m", "xsp", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


def _profile(*arguments: str, last: Sequence[str] = ()) -> str:
    command = ["profile", *arguments, *SHORT, *last]
    outcome = CliRunner().invoke(app, command, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a file of targets; what targets change in `sys` is put back."""
    (tmp_path / "net.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def test_profile_measures_reports_and_saves(folder: Path) -> None:
    """`xsp profile file.py` runs the function `target`, prints the table and writes a capture that
    opens.
    """
    outcome = _xsp("profile", "net.py", *SHORT, cwd=folder)
    assert outcome.returncode == 0, outcome.stderr
    assert "Sequential, inference under torch.no_grad()" in outcome.stdout
    assert "Linear" in outcome.stdout
    assert "capture written to net.xsp" in outcome.stdout
    assert set(xsp.load(folder / "net.xsp").tree()["type"]) >= {"model", "Linear", "ReLU"}


def test_profile_finds_modules_and_functions(folder: Path) -> None:
    """A dotted module with a function works as a file with a function does; a training step is
    called as it is.
    """
    (folder / "package").mkdir()
    (folder / "package" / "nets.py").write_text(MODEL)
    assert "capture written to nets-step.xsp" in _profile("package.nets:step")
    assert "backward" in set(xsp.load(folder / "nets-step.xsp").tree()["phase"])


def test_profile_keeps_training_mode(folder: Path) -> None:
    """A model in training mode is run with gradients, and the user is told so."""
    assert "training mode, recording gradients" in _profile("net.py:training")


def test_profile_passes_arguments(folder: Path) -> None:
    """What follows `--` is sys.argv of the target."""
    _profile("net.py:arguments", "--output", "a.xsp", last=("--", "16"))
    assert "[[1, 16]]" in set(xsp.load(folder / "a.xsp").table("layers")["output_shapes"])


def test_quiet_prints_the_path_only(folder: Path) -> None:
    """With --quiet the only output is where the capture is."""
    assert _profile("net.py", "--quiet") == "capture written to net.xsp\n"


def test_profile_does_not_overwrite(folder: Path) -> None:
    """An existing capture is kept unless --force is given, and that is said before anything is
    measured.
    """
    (folder / "net.xsp").write_text("precious")
    with pytest.raises(xsp.XspError, match="--force"):
        _profile("net.py")
    assert (folder / "net.xsp").read_text() == "precious"
    _profile("net.py", "--force")
    assert xsp.load(folder / "net.xsp").name == "Sequential"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("missing.py", "there is no file 'missing.py'"),
        (
            "net.py:nothing",
            "the functions there are arguments, fails, no_inputs, number, step, target, training",
        ),
        ("net.py:nothing", "along its own calls: xsp run net.py"),
        ("nowhere:target", "there is no module 'nowhere'"),
        ("net.py:number", "returned a value of type int; it must return (model, inputs)"),
        ("net.py:no_inputs", "returned the model Linear without inputs"),
        ("net.py:1", "is not a valid function name"),
        ("a-b", "names neither a Python file nor a module"),
    ],
)
def test_wrong_targets_are_explained(folder: Path, target: str, said: str) -> None:
    """A target that cannot be used is an XspError that says what is wrong and what is allowed."""
    with pytest.raises(xsp.TargetError, match=re.escape(said)):
        CliRunner().invoke(app, ["profile", target], catch_exceptions=False)


@pytest.mark.parametrize(
    "arguments", [("profile", "net.py:number"), ("report", "missing.xsp"), ("report", "net.py")]
)
def test_errors_are_one_line_with_status_2(
    arguments: tuple[str, ...], folder: Path, refused: Callable[..., str]
) -> None:
    """A deliberate error reaches the shell as one line on stderr and exit status 2, without a
    traceback.
    """
    assert refused(*arguments).startswith("xsp: ")


def test_user_errors_keep_their_traceback(folder: Path) -> None:
    """What the model raises is shown as Python shows it."""
    outcome = _xsp("profile", "net.py:fails", *SHORT, cwd=folder)
    assert outcome.returncode == 1
    assert 'net.py", line' in outcome.stderr
    assert "ArithmeticError: the model's own" in outcome.stderr


def test_import_errors_keep_their_traceback(folder: Path) -> None:
    """A target file that cannot be imported raises its own error, with a note on who imported
    it.
    """
    (folder / "broken.py").write_text("import no_such_package\n")
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'") as raised:
        _profile("broken.py")
    shown = "".join(traceback.format_exception(raised.value))
    assert 'broken.py", line 1' in shown
    if sys.version_info >= (3, 11):
        assert "raised while 'broken.py' was imported" in shown


def _imported_by(commands: list[list[str]], spared: tuple[str, ...]) -> tuple[str, list[str]]:
    """What these commands print in one new process, and which of `spared` they import."""
    code = (
        "import json, sys\n"
        "from xsp.cli.application import app\n"
        f"for command in {commands}:\n"
        "    app(command, standalone_mode=False)\n"
        f"print(json.dumps([each for each in {spared} if each in sys.modules]))"
    )
    environment = {**os.environ, "COLUMNS": "100"}
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTED,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    text, _, modules = shown.rstrip().rpartition("\n")
    return text, json.loads(modules)


def test_report_shows_a_capture_without_torch(tmp_path: Path) -> None:
    """`xsp report` prints the table of `print(prof)` and imports neither torch nor what others
    need.
    """
    path = gpu_capture().save(tmp_path / "net.xsp")
    spared = ("scipy.stats", "scipy.optimize", "sqlalchemy", "torch")
    shown, imported = _imported_by([["report", str(path)]], spared)
    assert imported == []
    assert "56.0% of the latency" in shown
    assert "cublasGemmEx" in shown


def test_commands_import_what_they_need() -> None:
    """A command is not kept waiting for what others import: seconds, most of all scipy.stats."""
    spared = ("numpy", "pandas", "scipy", "sqlalchemy", "torch")
    assert _imported_by([["--version"], ["--help"]], spared)[1] == []


@pytest.mark.parametrize("command", [[], ["database", "list"]])
def test_help_is_had_by_its_short_name_too(command: list[str]) -> None:
    """`-h` is `--help` also where no command stands in front, and behind two."""
    short, long = (CliRunner().invoke(app, [*command, name]) for name in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output
    assert "Usage" in short.output


def test_report_limits_rows_and_depth(tmp_path: Path) -> None:
    """--depth and --rows fold the table."""
    path = str(gpu_capture().save(tmp_path / "net.xsp"))
    deep, flat = (
        CliRunner().invoke(app, ["report", path, "--depth", depth]).output for depth in "91"
    )
    assert deep.count("cublasGemmEx") == flat.count("cublasGemmEx") + 1
    assert " more" in CliRunner().invoke(app, ["report", path, "--rows", "3"]).output


def test_doctor_explains_every_level() -> None:
    """`xsp doctor` names each level and says whether it can be traced; it succeeds on any
    machine.
    """
    outcome = CliRunner().invoke(app, ["doctor"])
    assert outcome.exit_code == 0
    for word in ("MODEL", "LAYER", "LIBRARY", "KERNEL", "native part", "GPU", "torch"):
        assert word in outcome.output


def test_a_report_is_written_as_json(folder: Path) -> None:
    """`--json` prints the summary and the table as values, None where a number is not known; `-o`
    writes the same, by the file's name.
    """
    gpu_capture().save(folder / "a.xsp")
    printed = CliRunner().invoke(app, ["report", "a.xsp", "--json"], catch_exceptions=False).output
    found = json.loads(printed)
    prof = xsp.load(folder / "a.xsp")
    assert (found["format"], found["version"], found["name"]) == ("xsp-report", 1, prof.name)
    assert found["latency"]["ms"] == prof.latency_ms
    assert [row["name"] for row in found["tree"]] == prof.tree()["name"].tolist()
    assert [row["level"] for row in found["levels"]] == prof.levels["level"].tolist()
    assert "NaN" not in printed
    for name, begins in (
        ("a.json", "{"),
        ("a.txt", prof.name),
        ("a.md", "# "),
        ("a.html", "<!doctype html>"),
    ):
        said = CliRunner().invoke(app, ["report", "a.xsp", "-o", name], catch_exceptions=False)
        assert name in said.output
        assert (folder / name).read_text().startswith(begins)
    assert (folder / "a.json").read_text() == printed


def test_doctor_answers_programs(folder: Path) -> None:
    """`--json` has each level with whether it can be traced, and the environment; `-o` writes
    it.
    """
    printed = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False).output
    found = json.loads(printed)
    by_level = {row["level"]: row for row in found["levels"]}
    assert by_level["LAYER"]["can_be_traced"] is True
    assert by_level["KERNEL"]["can_be_traced"] or by_level["KERNEL"]["reason"]
    assert found["environment"]["torch"] == torch.__version__
    CliRunner().invoke(app, ["doctor", "-o", "here.json"], catch_exceptions=False)
    assert json.loads((folder / "here.json").read_text())["levels"] == found["levels"]


@pytest.mark.parametrize("command", sorted(_COMMANDS))
def test_the_list_of_commands_says_what_each_says(command: str) -> None:
    """The sentence in the list, which is there without importing the command, begins the command's
    own help; `-h` is `--help` everywhere.
    """
    short, long = (CliRunner().invoke(app, [command, flag]) for flag in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.output == long.output
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", short.output).split())
    assert _COMMANDS[command].rstrip(".") in words


def test_words_are_completed() -> None:
    """A shell that asks gets the commands and the options that begin so."""
    for words, expected in (("xsp re", "report"), ("xsp report --ht", "--html")):
        environment = {
            **os.environ,
            "_XSP_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
            "PYTHONPATH": str(TESTED),
        }
        script = "from xsp.cli import main; main()"
        outcome = subprocess.run(
            [sys.executable, "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert outcome.stdout.split() == [expected], outcome.stderr


def test_what_is_logged_can_be_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`XSP_LOG` shows what the logger is told, from that level on; another word is refused."""
    shown: list[dict[str, str]] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: shown.append(options))
    logger = logging.getLogger("xsp")
    monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setenv("XSP_LOG", "loud")
    with pytest.raises(xsp.SettingError, match="the variable XSP_LOG is 'loud'; it must be one of"):
        CliRunner().invoke(app, ["report", "none.xsp"], catch_exceptions=False)
    monkeypatch.setenv("XSP_LOG", "info")
    with pytest.raises(xsp.CaptureError):
        CliRunner().invoke(app, ["report", "none.xsp"], catch_exceptions=False)
    assert len(shown) == 1
    assert logger.level == logging.INFO


def test_the_import_of_torch_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds: on a terminal a line says so while it lasts, and not with `--quiet`."""
    told: list[str] = []

    def status(_console: Console, said: str) -> AbstractContextManager[None]:
        told.append(said)
        return nullcontext()

    monkeypatch.setattr(Console, "status", status)
    _profile("net.py", "--quiet")
    assert told == []
    _profile("net.py", "--force")
    assert told == ["importing torch"]


def test_version_is_printed() -> None:
    """`xsp --version` says which xsp this is."""
    assert CliRunner().invoke(app, ["--version"]).output.startswith("xsp ")
