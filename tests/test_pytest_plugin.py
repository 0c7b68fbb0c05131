"""The pytest plugin, used as a project would use it: in test runs of their own, on small models on
the CPU.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

# Loaded here, so that each of the inner test runs need not load them again.
import xsp.profiler
import xsp.regression.call
import xsp.regression.judging
import xsp.regression.summary
from xsp.regression.budgets import check_budgets, parse_budgets
from xsp.regression.identity import machine_folder, machine_of
from xsp.regression.identity import test_path as path_of
from xsp.regression.options import parse_rules
from xsp.regression.outcome import Outcome, State
from xsp.regression.plan import known_options
from xsp.regression.summary import to_markdown

pytest_plugins = ["pytester"]

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
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run the tests in the folder, one thread of torch, and nothing that remembers the source
    files' former content.
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


def test_names_of_parametrised_tests_are_safe_and_unique(
    pytester: pytest.Pytester, run: Run
) -> None:
    """Any parameter gives a file of its own; a second measurement of a test and a named one
    do too.
    """
    pytester.makepyfile(
        HEAD.replace("iterations=8", "iterations=1")
        + """
@pytest.mark.parametrize("name", ["a/b", "a:b", "x" * 300])
def test_it(xsp, name):
    xsp(nn.ReLU(), torch.ones(2), levels="M")

def test_two(xsp):
    xsp(nn.ReLU(), torch.ones(2), levels="M")
    xsp(nn.ReLU(), torch.ones(2), levels="M")
    xsp(nn.ReLU(), torch.ones(2), levels="M", name="decode")
"""
    )
    run("--xsp-save=by.name").assert_outcomes(passed=4)
    stems = [path.stem for path in baselines(pytester.path, "by.name")]
    assert len(stems) == 6
    assert {"test_two", "test_two@2", "test_two@decode"} <= set(stems)
    assert sum(stem.startswith("test_it[a_b]~") for stem in stems) == 2
    assert len(set(states(run("--xsp-compare=by.name")).values())) >= 1


def test_files_of_baselines_are_unique_and_short_enough() -> None:
    """Folders that differ in replaced characters only have files of their own; no name is over 255
    bytes.
    """
    folders = ["a b", "a-b", "a*b", "a_b"]
    assert len({path_of(f"{folder}/test_it.py", ("test_it",), "") for folder in folders}) == len(
        folders
    )
    long = path_of("tests/test_it.py", ("test_" + "測" * 110,), "")
    assert len(long.name.encode()) < 200
    assert long != path_of("tests/test_it.py", ("test_" + "測" * 111,), "")


def test_two_measurements_of_one_name_are_an_error(pytester: pytest.Pytester, run: Run) -> None:
    """The second would be compared with the first one's baseline, and replace it."""
    pytester.makepyfile(
        HEAD
        + """
def test_loop(xsp):
    for size in (2, 2000):
        xsp(nn.ReLU(), torch.ones(size), levels="M", iterations=1, name="size")
"""
    )
    result = run("--xsp-save")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*name='size' is used by another measurement of *::test_loop already: give each call "
            "its own*"
        ]
    )
    assert baselines(pytester.path) == []


def test_backticks_do_not_end_code_in_markdown() -> None:
    """Names and messages with backticks stay inside the cell and the block that show them."""
    text = to_markdown([Outcome("test_it[a`b|c]", State.NEW, notes=("before", "`````", "after"))])
    assert "| `` test_it[a`b\\|c] `` |" in text
    assert text.count("`" * 8) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--xsp-compare=release"],
            "no baseline 'release' in *: there are none; make it with --xsp-save=release",
        ),
        (["--xsp-fail=slow"], "--xsp-fail='slow' is unknown; the choices are regression:5%, *"),
        (
            ["--xsp-fail=regression:-3%"],
            "the threshold of --xsp-fail=regression must be a share > 0, such as "
            "regression:5%, not '-3%'",
        ),
        (["--xsp-save", "tests/test_a.py"], "*cannot be a baseline's name*write --xsp-save=NAME*"),
        (["--xsp-save", "test_a.py"], "*'test_a.py' cannot be a baseline's name: it is a path*"),
        (["--xsp-update", "--xsp-save"], "--xsp-update and --xsp-save exclude each other*"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(
    run: Run, options: list[str], says: str
) -> None:
    """The message gives the value, the rule and the way out."""
    result = run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {says}"])


@pytest.mark.parametrize("option", ["--xsp-html=DIR", "--xsp-md=DIR", "--xsp-md", "--xsp-save"])
def test_targets_that_cannot_be_written_are_refused_before_anything_runs(
    pytester: pytest.Pytester, run: Run, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """A summary, the job's summary or a baseline that cannot be written is told before the first
    test, not after the last; nothing is left behind.
    """
    folder = pytester.mkdir("folder")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder))
    (pytester.path / ".xsp").write_text("a file where baselines would be")
    pytester.makepyfile("def test_it(xsp):\n    open('ran', 'w')")
    before = sorted(pytester.path.rglob("*"))
    result = run(option.replace("DIR", str(folder)))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: *is a directory*"] if option != "--xsp-save" else ["ERROR: *"]
    )
    assert sorted(pytester.path.rglob("*")) == before


@pytest.mark.parametrize("option", ["--xsp-save", "--xsp-add", "--xsp-compare"])
def test_a_folder_of_tests_is_not_taken_for_a_name(
    pytester: pytest.Pytester, run: Run, option: str
) -> None:
    """What exists here is refused as the name of a baseline, and nothing is saved under it."""
    pytester.mkdir("performance")
    result = run(option, "performance")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{option}='performance'*it is a path*put {option} after it"])
    assert baselines(pytester.path, "performance") == []


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        ("kernel=3", "option 'kernel' is unknown; the options are *kernels*"),
        ("max_slowdown=0.9", "max_slowdown must be a ratio > 1, *, not 0.9"),
        ("latency_ms=-1", "budget latency_ms must be a number >= 0*, not -1"),
        ("metric='gpu'", "metric must be latency or device, not 'gpu'"),
    ],
)
def test_wrong_markers_are_errors(
    pytester: pytest.Pytester, run: Run, marker: str, says: str
) -> None:
    """A misspelt option is an error of the test, not a budget that nobody checks."""
    pytester.makepyfile(f"import pytest\n@pytest.mark.xsp({marker})\ndef test_it(xsp): pass")
    result = run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*UsageError: @pytest.mark.xsp of *: {says}"])


def in_a_process(folder: Path, *options: str) -> str:
    """Output of a test run of its own, which must end well."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", *PLUGIN, *options]
    finished = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120
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


def test_what_the_manual_and_the_workflows_say_exists(run: Run) -> None:
    """Every option and every budget in docs/pytest.md and examples/ci/ is one of the plugin's."""
    root = Path(__file__).parent.parent
    text = (root / "docs" / "pytest.md").read_text()
    text += "".join(path.read_text() for path in (root / "examples" / "ci").glob("*.yml"))
    options = set(re.findall(r"--xsp-[a-z]+", text))
    shown = "\n".join(run("--help").outlines)
    assert len(options) == 8
    assert {option for option in options if option not in shown} == set()
    assert {name for name in known_options() if f"`{name}`" not in text} == set()
    assert {state for state in State if f"| `{state}` |" not in text} == set()
    for rules in re.findall(r"--xsp-fail=([^ `]+)", text):
        parse_rules([rules.replace("…", "5%")])


def test_the_key_of_a_gpu_has_what_its_times_depend_on() -> None:
    """Another driver, CUDA, torch or power limit is another machine; other facts of the environment
    are not.
    """
    facts = {
        "gpu": "NVIDIA H100 80GB HBM3",
        "driver": "580.159.04",
        "cuda": "13.0",
        "torch": "2.11.0+cu130",
        "power_limit_w": 700.0,
        "cpu": "a CPU",
        "torch_threads": 16,
    }
    folder = machine_folder(machine_of(facts))
    assert folder == "NVIDIA-H100-80GB-HBM3_driver-580.159.04_cuda-13.0_torch-2.11.0+cu130_700W"
    others: list[dict[str, Any]] = [
        {"driver": "1"},
        {"cuda": "12.8"},
        {"torch": "2.14.1"},
        {"power_limit_w": 350.0},
        {"gpu": None},
    ]
    assert len(
        {folder, *(machine_folder(machine_of(facts | other)) for other in others)}
    ) == 1 + len(others)
    assert machine_folder(machine_of(facts | {"cpu": "another", "torch_threads": 4})) == folder


def test_budgets_on_an_h100_name_layers_and_kernels() -> None:
    """On captures of an H100 each budget reads what the profile has, and what breaks it
    is named.
    """
    captures = Path(__file__).parent.parent / "examples" / "captures"
    resnet, step = (xsp.load(captures / f"h100_{name}.xsp") for name in ("resnet50", "train_step"))
    limits = parse_budgets(
        {
            "kernels": 300,
            "library_calls": 55,
            "synchronizations": 0,
            "gpu_idle_share": 0.5,
            "dram_bytes": 1,
        }
    )
    found = {each.name: each for each in check_budgets(resnet, limits, {})}
    assert {name: each.state for name, each in found.items()} == {
        "kernels": "broken",
        "library_calls": "kept",
        "synchronizations": "kept",
        "gpu_idle_share": "broken",
        "dram_bytes": "unchecked",
    }
    assert found["kernels"].message.startswith(
        "kernels is 354, over the budget of 300 (+18.0%); most of it in\n    conv1 "
    )
    assert "nchwToNhwcKernel" in found["kernels"].message
    [breaks] = check_budgets(step, {"graph_breaks": 0.0}, None)
    assert breaks.state == "unchecked"
    assert "another profiler of Python calls is active" in breaks.message
    [waits] = check_budgets(step, {"synchronizations": 0.0}, {})
    assert waits.message.splitlines()[1].split() == [
        "step::item",
        "1",
        "100.0%",
        "cudaStreamSynchronize",
    ]
