"""What is set once for every profile: variables, [tool.xsp], and who wins."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from quick import LAYERS
from torch import nn

import xsp
from xsp.database.store import Store
from xsp.measuring.options import Options


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder inside a project without settings."""
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nlevels = 'M'\n")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    return tmp_path


def settings(project: Path, text: str) -> None:
    (project / "pyproject.toml").write_text(f"[tool.xsp]\n{text}\n")


def test_without_settings_defaults_hold(project: Path) -> None:
    """Options that nobody sets are those of `Options()`."""
    assert Options.asked() == Options.of()


def test_the_table_sets_options(project: Path) -> None:
    """`[tool.xsp]` of the nearest pyproject.toml that has one, also above the working folder."""
    settings(project, 'levels = "M/L"\nbudget_s = 4\nprogress = false')
    (project / "inside" / "pyproject.toml").write_text("[project]\nname = 'inside'\n")
    found = Options.asked()
    assert [level.name for level in found.levels] == ["MODEL", "LAYER"]
    assert (found.budget_s, found.progress) == (4, False)


def test_a_variable_wins_over_the_table(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over both, and an empty variable sets nothing."""
    settings(project, "budget_s = 4\nseed = 7")
    monkeypatch.setenv("XSP_BUDGET_S", "2.5")
    monkeypatch.setenv("XSP_SEED", "")
    monkeypatch.setenv("XSP_PROGRESS", "0")
    found = Options.asked(warmup=1)
    assert (found.budget_s, found.seed, found.progress, found.warmup) == (2.5, 7, False, 1)
    assert Options.asked(budget_s=9).budget_s == 9


def test_profiles_follow_settings(project: Path) -> None:
    """`xsp.measure` measures the levels and rounds that are set, and an argument's where given."""
    settings(project, 'levels = "M"\niterations = 2\nwarmup = 1\nprogress = false')
    model, given = nn.Linear(2, 2), torch.ones(1, 2)
    prof = xsp.measure(model, given)
    assert set(prof.runs["rung"]) == {"M"}
    assert prof.runs["round"].nunique() == 2
    again = xsp.measure(model, given, levels="M/L")
    assert set(again.runs["rung"]) == {"M", "M/L"}


def test_a_stopping_rule_wins_over_rounds_that_are_set(project: Path) -> None:
    """The two exclude each other, so a rule that is given leaves the setting out."""
    settings(project, "iterations = 2\nwarmup = 3\nseed = 7")
    found = Options.asked(stop=lambda _: "enough", levels="M")
    assert found.iterations is None
    # What is left out or given leaves the other settings as they are.
    assert (found.warmup, found.seed) == (3, 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("budget = 3", "sets 'budget', which is no setting; the settings are levels"),
        ("budget_s = -1", r"\[tool.xsp\] in .*pyproject.toml: budget_s must be"),
        ('levels = "X"', r"\[tool.xsp\] in .*pyproject.toml: "),
        ('nvtx = "maybe"', "must be one of true, false, 1, 0"),
        ("levels = ", "cannot be read"),
    ],
)
def test_an_impossible_setting_is_refused(project: Path, text: str, said: str) -> None:
    """The error says where it was set."""
    settings(project, text)
    with pytest.raises(xsp.SettingError, match=said):
        Options.asked()


def test_a_variable_that_is_no_number_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable."""
    monkeypatch.setenv("XSP_ITERATIONS", "many")
    with pytest.raises(xsp.SettingError, match="the variable XSP_ITERATIONS"):
        Options.asked()


def test_another_tools_broken_file_is_no_business_of_xsp(project: Path) -> None:
    """A pyproject.toml that cannot be read and says nothing of xsp sets nothing."""
    (project / "pyproject.toml").write_text("[tool.other\n")
    assert Options.asked() == Options.of()


def test_the_database_can_be_set(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the table as by its variable."""
    monkeypatch.delenv("XSP_DATABASE", raising=False)
    settings(project, f'database = "{project / "kept.sqlite"}"')
    with Store() as store:
        assert store.place == str(project / "kept.sqlite")


def test_what_xsp_does_is_logged(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The logger `xsp` is told phases (INFO) and warnings (WARNING); without a handler of the
    application's nothing is printed.
    """
    with caplog.at_level(logging.INFO, logger="xsp"):
        prof = xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **LAYERS)
    said = [(record.name, record.levelname) for record in caplog.records]
    assert ("xsp", "INFO") in said
    assert any("warm-up" in record.getMessage() for record in caplog.records)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warned == [f"Linear: {sentence}" for sentence in prof.warnings]
    assert any(isinstance(each, logging.NullHandler) for each in logging.getLogger("xsp").handlers)
