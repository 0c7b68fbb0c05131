"""What the pytest plugin takes: options, markers, names, budgets and machines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from plugin_runs import HEAD, Run, baselines, states

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

pytest_plugins = ["pytester", "plugin_runs"]


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


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_every_wait_of_the_host_counts(kind: int) -> None:
    """For an event, a stream or a context; that a stream waits for another (2) is none."""
    capture = Path(__file__).parent.parent / "examples" / "captures" / "h100_train_step.xsp"
    step = xsp.load(capture)
    step._capture.tables["synchronizations"]["kind"] = kind
    [waits] = check_budgets(step, {"synchronizations": 0.0}, {})
    assert waits.state == ("kept" if kind == 2 else "broken")


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
