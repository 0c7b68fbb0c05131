"""The pytest plugin, used as a project would use it: in test runs of their own, on small models on
the CPU.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from plugin_runs import HEAD, LINEAR, PLUGIN, PROJECT, SLEEPER, Run, baselines, replaced, states

pytest_plugins = ["pytester", "plugin_runs"]

# Loaded here, so that each of the inner test runs need not load them again.


def test_a_project_saves_baselines_turns_red_and_green_again(
    pytester: pytest.Pytester, run: Run
) -> None:
    """Three tests in a plain package: saved; red with the layer named when a copy is added; green
    when it is gone.
    """
    shutil.copytree(PROJECT, pytester.path, dirs_exist_ok=True)
    first = run()
    first.assert_outcomes(passed=4)
    assert set(states(first).values()) == {"new"}
    assert baselines(pytester.path) == []

    run("--xsp-save").assert_outcomes(passed=4)
    saved = {path.stem for path in baselines(pytester.path)}
    assert saved == {
        "test_block",
        "test_inference[1]",
        "test_inference[8]",
        "TestTraining.test_step",
    }

    model = pytester.path / "plain_package" / "model.py"
    replaced(model, "= x + self.down", "= x.clone() + self.down")
    red = run("--xsp-fail=nothing,grew")
    red.assert_outcomes(failed=4)
    red.stdout.fnmatch_lines(
        [
            "*test_inference?1?: more than baseline 'main' of *",
            "*layers 9 → 11 (+2): blocks.0::clone +1*",
        ]
    )
    red.stdout.fnmatch_lines(["*bytes allocated*blocks.0::clone +128*"])

    replaced(model, "= x.clone() + self.down", "= x + self.down")
    run("--xsp-fail=nothing,grew").assert_outcomes(passed=4)


def test_a_slow_down_is_red_until_it_is_reverted(pytester: pytest.Pytester, run: Run) -> None:
    """Five times as long is a regression, with ratio, p-value and the threshold in the message;
    fast again is green.
    """
    test = pytester.makepyfile(SLEEPER.format(seconds=0.004))
    run("--xsp-save").assert_outcomes(passed=1)
    replaced(test, "sleep(0.004)", "sleep(0.02)")
    red = run()
    red.assert_outcomes(failed=1)
    assert list(states(red).values()) == ["regression, failed"]
    red.stdout.fnmatch_lines(
        ["*::test_sleeper: slower than baseline 'main'*latency ratio *, p = *allowed is 2.000*"]
    )
    red.stdout.fnmatch_lines(["*1 regression, 1 failed*"])
    run("--xsp-fail=nothing").assert_outcomes(passed=1)
    replaced(test, "sleep(0.02)", "sleep(0.004)")
    green = run()
    green.assert_outcomes(passed=1)
    assert list(states(green).values()) == ["same"]


def test_update_accepts_what_changed(pytester: pytest.Pytester, run: Run) -> None:
    """--xsp-update shows that counts grew, passes, and makes them the baseline; fewer is then shown
    and passes too.
    """
    test = pytester.makepyfile(LINEAR.format(more="nn.ReLU()"))
    run("--xsp-save").assert_outcomes(passed=1)
    replaced(test, "nn.ReLU()", "nn.ReLU(), nn.Linear(4, 4)")
    updated = run("--xsp-update")
    updated.assert_outcomes(passed=1)
    assert list(states(updated).values()) == ["grew"]
    assert json.loads(baselines(pytester.path)[0].read_text())["counts"]["layers"] == 3
    replaced(test, "nn.ReLU(), nn.Linear(4, 4)", "nn.ReLU()")
    fewer = run("--xsp-fail=nothing")
    fewer.assert_outcomes(passed=1)
    assert list(states(fewer).values()) == ["shrank"]
    fewer.stdout.fnmatch_lines(["*layers 3 → 2 (-1): 2 -1*"])
    run("--xsp-fail=nothing,shrank").assert_outcomes(failed=1)


def moved(folder: Path, **facts: Any) -> Path:
    """Make the only baseline one of another machine."""
    [path] = baselines(folder)
    found = json.loads(path.read_text())
    found["environment"] |= facts
    other = path.parents[1].with_name("another-machine") / path.parent.name / path.name
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(found))
    path.unlink()
    return other


def test_times_of_another_machine_are_not_compared_but_counts_are(
    pytester: pytest.Pytester, run: Run
) -> None:
    """Without a baseline of this machine a test is new, with the way out; more layers than
    elsewhere are red anyway.
    """
    test = pytester.makepyfile(LINEAR.format(more="nn.ReLU()"))
    run("--xsp-save").assert_outcomes(passed=1)
    moved(pytester.path, cpu="Another CPU")
    new = run()
    new.assert_outcomes(passed=1)
    assert list(states(new).values()) == ["new"]
    new.stdout.fnmatch_lines(
        [
            "new: no baseline for this machine; --xsp-save makes one",
            "1 of 1 measurements had no baseline and was compared with nothing; --xsp-fail=new *",
        ]
    )
    run("--xsp-fail=new").assert_outcomes(failed=1)
    replaced(test, "nn.ReLU()", "nn.ReLU(), nn.Linear(4, 4)")
    red = run()
    red.assert_outcomes(failed=1)
    red.stdout.fnmatch_lines(
        ["*more than the baseline of another machine (Another CPU*", "*layers 2 → 3*"]
    )


def test_what_cannot_be_compared_is_refused_with_the_reason(
    pytester: pytest.Pytester, run: Run
) -> None:
    """A baseline with a level that is not traced now fails the test: the counts of that level are
    not checked. So does one of other inputs, whose times would say nothing.
    """
    test = pytester.makepyfile(LINEAR.format(more="nn.ReLU()"))
    run("--xsp-save").assert_outcomes(passed=1)
    replaced(test, 'levels="ML"', 'levels="M"')
    refused = run()
    refused.assert_outcomes(failed=1)
    refused.stdout.fnmatch_lines(
        ["*cannot be compared with baseline 'main'*level LAYER was traced for it*"]
    )
    replaced(test, 'levels="M"', 'levels="ML"')
    replaced(test, "ones(2, 4)", "ones(8, 4)")
    other = run()
    other.assert_outcomes(failed=1)
    other.stdout.fnmatch_lines(
        ["*inputs 2×4 float32 in the baseline, 8×4 float32 in the candidate; accept it with*"]
    )
    baselines(pytester.path)[0].write_text("{}")
    broken = run()
    broken.assert_outcomes(failed=1)
    broken.stdout.fnmatch_lines(["*BaselineError: the baseline *cannot be read*save it again*"])


def test_broken_budgets_show_the_layers(pytester: pytest.Pytester, run: Run) -> None:
    """A budget on bytes names the layers that allocate most; one for a level that is off cannot be
    kept.
    """
    pytester.makepyfile(
        HEAD
        + """
def model():
    return nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 4)).eval()

def test_bytes(xsp):
    xsp(model(), torch.ones(2, 4), allocated_bytes=1000)

def test_off(xsp):
    xsp(model(), torch.ones(2, 4), kernels=0)

@pytest.mark.xsp(levels=None, kernels=0, latency_ms=1e6, graph_breaks=0)
def test_unavailable(xsp):
    prof = xsp(model(), torch.ones(2, 4))
    assert prof.latency_ms < 1e6

def test_saved_only_if_the_whole_test_passes(xsp):
    xsp(model(), torch.ones(2, 4))
    assert False
"""
    )
    result = run("--xsp-save")
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(
        ["*allocated_bytes is 1,632 bytes, over the budget of 1,000 (+63.2%); most of it in"]
    )
    result.stdout.fnmatch_lines(["    0  800  49.0%"])
    result.stdout.fnmatch_lines(
        ["*budget kernels=0 was not checked: level KERNEL is not among the levels of this test"]
    )
    if not torch.cuda.is_available():
        result.stdout.fnmatch_lines(
            ["*test_unavailable: budget kernels=0 was not checked: level KERNEL is unavailable: *"]
        )
        assert run("--xsp-fail=unchecked", "-k", "unavailable").ret == pytest.ExitCode.TESTS_FAILED
    assert [path.stem for path in baselines(pytester.path)] == ["test_unavailable"]


def test_graph_breaks_are_counted_and_located(pytester: pytest.Pytester, run: Run) -> None:
    """A model that compiled whole and now breaks its graph is red, with function and line."""
    test = pytester.makepyfile(
        HEAD
        + """
class Model(nn.Module):
    def forward(self, x):
        y = x + 1
        pass  # here
        return y.relu()

def test_compiled(xsp):
    xsp(torch.compile(Model(), backend="eager"), torch.ones(2))
"""
    )
    # Dynamo registers itself with torch once in a process, so the inner test runs must not be the
    # first to load it.
    torch.compile(torch.nn.ReLU(), backend="eager")(torch.ones(1))
    run("--xsp-save").assert_outcomes(passed=1)
    torch._dynamo.reset()
    replaced(test, "pass  # here", "torch._dynamo.graph_break()")
    red = run("--xsp-fail=nothing,grew")
    torch._dynamo.reset()
    red.assert_outcomes(failed=1)
    red.stdout.fnmatch_lines(["*graph breaks 0 → 1 (+1): forward, line 1? +1*"])


def test_undecided_is_measured_again_with_more_rounds(pytester: pytest.Pytester, run: Run) -> None:
    """Noise that hides the answer asks for twice the rounds while patience lasts; then it is
    reported, and can fail.
    """
    test = pytester.makepyfile(
        HEAD.replace("iterations=8", "iterations=4")
        + """
import itertools
turn = itertools.count()

def test_noisy(xsp):
    xsp(lambda: time.sleep(0.001 + 0.004 * (next(turn) // 3 % 2)), levels="M", max_slowdown=1.02)
"""
    )
    run("--xsp-save").assert_outcomes(passed=1)
    hasty = run()
    hasty.assert_outcomes(passed=1)
    assert list(states(hasty).values()) == ["undecided"]
    hasty.stdout.fnmatch_lines(["*::test_noisy: noise is too large to tell it from baseline*"])
    run("--xsp-fail=undecided").assert_outcomes(failed=1)
    replaced(test, "patience_s=0)\n", "patience_s=4)\n")
    patient = run()
    [row] = [line for line in patient.outlines if "::test_noisy  " in line]
    assert int(row.split()[-1]) >= 8


def test_a_metric_that_is_not_measured_here_is_never_the_same(
    pytester: pytest.Pytester, run: Run
) -> None:
    """metric="device" without a GPU: counts are compared, times are undecided with the reason,
    nothing is repeated.
    """
    pytester.makepyfile(
        LINEAR.format(more="nn.ReLU()").replace("max_slowdown", "metric='device', max_slowdown")
    )
    run("--xsp-save").assert_outcomes(passed=1)
    result = run()
    result.assert_outcomes(passed=1)
    assert list(states(result).values()) == ["undecided"]
    result.stdout.fnmatch_lines(["*times are not compared: metric 'device' was not measured here*"])


def test_disabled_runs_the_target_and_judges_nothing(pytester: pytest.Pytester, run: Run) -> None:
    """With --xsp-disable counts are those of a real profile, but no budget is checked and nothing
    is saved.
    """
    pytester.makepyfile(
        HEAD
        + """
def test_it(xsp):
    prof = xsp(nn.ReLU(), torch.ones(2), latency_ms=0)
    assert len(prof.runs) == 2
"""
    )
    result = run("--xsp-disable", "--xsp-save", "--xsp-compare=nothing-there")
    result.assert_outcomes(passed=1)
    assert list(states(result).values()) == ["disabled"]
    assert not (pytester.path / ".xsp").exists()


def test_markdown_and_html_tell_the_same(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files have the states and messages, names escaped; Markdown goes to GitHub's job summary
    by default.
    """
    pytester.makepyfile(
        HEAD
        + """
@pytest.mark.parametrize("name", ["<b>|</b>"])
def test_it(xsp, name):
    xsp(nn.ReLU(), torch.ones(2), latency_ms=0)
"""
    )
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "step.md"))
    (pytester.path / "step.md").write_text("before\n")
    run("--xsp-md", "--xsp-html=out/report.html").assert_outcomes(failed=1)
    markdown, html = (
        (pytester.path / "step.md").read_text(),
        (pytester.path / "out" / "report.html").read_text(),
    )
    assert markdown.startswith("before\n### xsp: 1 new, 1 failed\n")
    assert "| `" in markdown
    assert "test_it[<b>\\|</b>]` | new, failed |" in markdown
    assert "&lt;b&gt;|&lt;/b&gt;" in html
    assert "<b>" not in html
    assert all("over the budget of 0" in text for text in (markdown, html))


def in_a_process(folder: Path, *options: str) -> str:
    """Output of a test run of its own, which must end well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", *PLUGIN, *options]
    finished = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, timeout=240
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_collecting_measures_nothing_and_imports_no_torch(pytester: pytest.Pytester) -> None:
    """The plugin costs a test run that uses none of it no import of torch or pandas."""
    pytester.makepyfile("def test_it(xsp):\n    assert False, 'collected only'")
    look = "print([name for name in ('torch', 'pandas') if name in sys.modules])"
    pytester.makeconftest(f"import sys\ndef pytest_unconfigure():\n    {look}")
    assert "\n[]" in in_a_process(pytester.path, "--collect-only", "-q")


def test_works_with_xdist_and_beside_pytest_benchmark(pytester: pytest.Pytester) -> None:
    """Two workers measure one after the other; every outcome is in the one summary, every baseline
    saved once.
    """
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_benchmark")
    pytester.makepyfile(
        HEAD.replace("iterations=8", "iterations=3")
        + """
import json, os, pathlib

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_it(xsp, n):
    stamps = []
    xsp(lambda: (stamps.append(time.monotonic()), time.sleep(0.01)), levels="M")
    pathlib.Path(f"{n}.json").write_text(json.dumps([os.getpid(), stamps[0], stamps[-1]]))

def test_beside(benchmark):
    benchmark.pedantic(time.sleep, (0,), rounds=1)
"""
    )
    beside = ("-p", "xdist.plugin", "-p", "pytest_benchmark.plugin")
    out = in_a_process(
        pytester.path, *beside, "-n2", "--dist=load", "--xsp-save", "--xsp-md=out.md"
    )
    assert "5 passed" in out
    stretches = sorted(json.loads((pytester.path / f"{n}.json").read_text()) for n in (1, 2, 3, 4))
    assert len({pid for pid, *_ in stretches}) == 2
    ordered = sorted(stretches, key=lambda each: each[1])
    assert all(before[2] < after[1] for before, after in pairwise(ordered))
    assert "### xsp: 4 recorded" in (pytester.path / "out.md").read_text()
    assert len(baselines(pytester.path)) == 4
