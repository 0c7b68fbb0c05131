"""`xsp history`: baselines over the commits of a repository."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import xsp
from xsp.cli.application import app
from xsp.comparing.comparable import comparable
from xsp.regression.baselines import Baseline
from xsp.regression.history import UNCOMMITTED, history

CAPTURES = Path(__file__).parent.parent / "examples" / "captures" / "models"
TEST = "tests/test_net.py::test_net"
WHO = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str, date: str = "") -> None:
    environment = {**os.environ, "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    subprocess.run(["git", *WHO, *arguments], cwd=folder, check=True, env=environment)


@pytest.fixture(scope="module")
def saved() -> list[Baseline]:
    """A test's baselines, of a model and of another that is slower and has other layers."""
    captures = [xsp.load(CAPTURES / f"{name}.xsp") for name in ("alexnet", "vgg16")]
    return [
        Baseline.measured(TEST, f"2026-01-0{day}T00:00:00+00:00", comparable(prof), {})
        for day, prof in enumerate(captures, start=1)
    ]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, saved: list[Baseline]) -> Path:
    """Two commits with a version of the baseline each, one without, and a file that is none."""
    folder = tmp_path_factory.mktemp("repository")
    place = folder / ".xsp" / "baselines" / "main" / "machine" / "tests"
    place.mkdir(parents=True)
    git(folder, "init", "--quiet")
    for day, (baseline, subject) in enumerate(zip(saved, ("first", "<b> slower"), strict=True), 1):
        (place / "test_net.json").write_text(baseline.to_json())
        (place / "other.json").write_text(f'{{"none": {day}}}')
        git(folder, "add", ".")
        date = f"2026-01-0{day}T12:00:00+00:00"
        git(folder, "commit", "--quiet", "-m", subject, date=date)
    (folder / "README").touch()
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "nothing measured", date="2026-01-03T12:00:00+00:00")
    return folder


def test_each_version_is_a_row(repository: Path, saved: list[Baseline]) -> None:
    """The oldest first, with the commit's date and subject, the time, the ratio to the version
    before and the counts; files that are no baselines are left out.
    """
    found = history(repository / ".xsp" / "baselines" / "main")
    assert found["subject"].tolist() == ["first", "<b> slower"]
    assert found["test"].tolist() == [TEST, TEST]
    assert [day[:10] for day in found["date"]] == ["2026-01-01", "2026-01-02"]
    first, second = found["latency_ms"]
    assert found["ratio"].tolist()[1] == pytest.approx(second / first)
    assert found["ratio"].isna().tolist() == [True, False]
    assert found["counts"].tolist() == [dict(each.profile.counts) for each in saved]


def test_what_is_not_committed_comes_last(repository: Path, saved: list[Baseline]) -> None:
    """A baseline of the working tree is a row where the last commit has another; one that was
    committed is not told twice.
    """
    path = next(repository.rglob("test_net.json"))
    committed = path.read_text()
    path.write_text(saved[0].to_json())
    found = history(repository / ".xsp" / "baselines" / "main")
    path.write_text(committed)
    assert found["commit"].tolist()[-1] == UNCOMMITTED
    assert found["latency_ms"].tolist()[-1] == found["latency_ms"].tolist()[0]
    assert len(found) == 3


def test_it_is_shown_in_every_form(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines with the change and what was counted, JSON, and a page whose names are escaped."""
    monkeypatch.chdir(repository)
    shown = CliRunner().invoke(app, ["history"], catch_exceptions=False).output
    lines = shown.splitlines()
    assert lines[0].startswith(TEST)
    assert "2026-01-02" in lines[2]
    assert "%" in lines[2]
    assert "kernels " in lines[2]
    assert " → " in lines[2]
    data = json.loads(CliRunner().invoke(app, ["history", "net", "--json"]).output)
    assert [row["ratio"] is None for row in data["rows"]] == [True, False]
    CliRunner().invoke(app, ["history", "-o", "page.html"], catch_exceptions=False)
    page = (repository / "page.html").read_text()
    (repository / "page.html").unlink()
    assert "latency ms" in page
    assert "<b> slower" not in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none"], "no test with 'none' in its name"),
        (["--name", "other"], "there are no baselines in"),
    ],
)
def test_what_is_not_there_is_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """Another test, and another name, with the way out."""
    monkeypatch.chdir(repository)
    with pytest.raises(xsp.BaselineError, match=said):
        CliRunner().invoke(app, ["history", *arguments], catch_exceptions=False)


def test_a_folder_outside_of_git_is_refused(tmp_path: Path) -> None:
    """The error says what git said."""
    with pytest.raises(xsp.BaselineError, match=r"git cannot be asked.*committing them"):
        history(tmp_path)
