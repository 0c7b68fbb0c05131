"""Test runs in which times can fail nothing: one run tells the counts."""

from __future__ import annotations

import pytest
from plugin_runs import HEAD, Run, replaced, states

from xsp.regression.outcome import Outcome, State
from xsp.regression.summary import to_markdown

TEST = (
    HEAD.replace("iterations=8, ", "")
    + "def test_linear(xsp):\n"
    + "    xsp(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.ones(2, 4){more})\n"
)
COUNTS = "--xsp-fail=nothing,grew"


@pytest.fixture
def saved(pytester: pytest.Pytester, run: Run) -> pytest.Pytester:
    """A project with a baseline, whose test says nothing of rounds from then on."""
    path = pytester.makepyfile(TEST.format(more=", iterations=8"))
    run("--xsp-save=main").assert_outcomes(passed=1)
    replaced(path, ", iterations=8", "")
    return pytester


def cells(result: pytest.RunResult) -> list[str]:
    """The row of the one test in the summary's table."""
    rows = [line for line in result.outlines if "::test_linear  " in line]
    return [cell.strip() for cell in rows[-1].split("  ") if cell.strip()]


def test_counts_need_one_run(saved: pytest.Pytester, run: Run) -> None:
    """Where no rule and no budget is about times, one round is made, the state says that only
    counts were compared, and no time is shown.
    """
    result = run(COUNTS)
    result.assert_outcomes(passed=1)
    assert cells(result)[1:4] == ["counted", "–", cells(result)[3]]
    assert cells(result)[-1] == "1"
    assert any("counting one run" in line for line in result.outlines)


def test_more_work_is_found_in_one_run(saved: pytest.Pytester, run: Run) -> None:
    """A layer more fails the test and is named."""
    path = next(saved.path.glob("test_*.py"))
    replaced(path, "nn.ReLU())", "nn.ReLU(), nn.Tanh())")
    result = run(COUNTS)
    result.assert_outcomes(failed=1)
    assert states(result) == {f"{path.name}::test_linear": "grew, failed"}
    assert any("layers 2 → 3 (+1)" in line for line in result.outlines)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ((COUNTS, "--xsp-fail=regression:90%"), ", iterations=7"),
        ((COUNTS, "--xsp-save=other", "--xsp-compare"), ", iterations=7"),
        ((COUNTS,), ", iterations=7"),
        ((COUNTS,), ", latency_ms=1e9, stop=lambda runs: 'enough' if len(runs) > 6 else None"),
    ],
)
def test_times_are_measured_where_they_matter(
    saved: pytest.Pytester, run: Run, options: tuple[str, ...], more: str
) -> None:
    """A rule or a budget of time, a baseline that is saved and a number of rounds need more than
    one run.
    """
    path = next(saved.path.glob("test_*.py"))
    replaced(path, "torch.ones(2, 4)", f"torch.ones(2, 4){more}")
    result = run(*options)
    result.assert_outcomes(passed=1)
    assert cells(result)[1] != "counted"
    assert int(cells(result)[-1]) > 1


def test_another_program_cannot_be_counted(saved: pytest.Pytester, run: Run) -> None:
    """Inputs of another shape are refused as they are where times are compared."""
    replaced(next(saved.path.glob("test_*.py")), "torch.ones(2, 4)", "torch.ones(3, 4)")
    result = run("--xsp-fail=nothing,refused")
    result.assert_outcomes(failed=1)
    assert any("shapes" in line or "inputs" in line for line in result.outlines)


def test_a_line_tells_what_is_measured(saved: pytest.Pytester, run: Run) -> None:
    """It comes before the measurement, past pytest's capture, and not with `-q`."""
    path = next(saved.path.glob("test_*.py"))
    replaced(path, "torch.ones(2, 4)", "torch.ones(2, 4), iterations=7")
    line = f"xsp: {path.name}::test_linear: measuring 7 rounds"
    assert line in run().outlines
    assert line not in run("-q").outlines


def test_a_comment_is_never_longer_than_one_can_be() -> None:
    """Details that would not fit are left out and counted, and those of tests that failed come
    first.
    """
    passed = [Outcome(f"test_{n}", State.SHRANK, notes=("fewer " * 500,)) for n in range(60)]
    failed = Outcome("test_red", State.GREW, failures=("more layers",))
    text = to_markdown([*passed, failed])
    assert len(text) < 65_536
    assert text.count("| `test_") == 61
    assert "more layers" in text
    told = text.count("<details")
    assert f"Details of {61 - told} tests are left out" in text
