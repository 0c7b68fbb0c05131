"""Baselines of several sessions: what processes differ by is in the verdict, by simulation and
through the plugin.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from virtual_clock import VirtualClock

from xsp.comparing.spread import among_sessions, spread
from xsp.comparing.verdict import IMPROVED, REGRESSION, UNDECIDED, Verdict, verdict

pytest_plugins = ["pytester"]

THRESHOLD = 0.025
RUNS = 20
RUN_NOISE = 0.02


def verdicts(
    sessions: int, between: float, change: float, trials: int = 250
) -> tuple[list[str], list[str]]:
    """Verdicts with and without the sessions' spread, on processes that differ by `between`, and a
    slow-down.
    """
    random = np.random.default_rng(sessions)
    alone, among = [], []
    for _ in range(trials):
        levels = random.normal(0, between, sessions + 1)
        levels[-1] += np.log1p(change)
        runs = np.exp(levels[:, None] + random.normal(0, RUN_NOISE, (sessions + 1, RUNS)))
        times = runs.mean(axis=1)
        found = verdict(runs[-2], runs[-1], threshold=THRESHOLD)
        alone.append(found.name)
        among.append(
            among_sessions(found, [times[:-1].tolist()], float(times[-1]), threshold=THRESHOLD).name
        )
    return alone, among


@pytest.mark.parametrize("sessions", [3, 8])
@pytest.mark.parametrize("between", [0.01, 0.03])
def test_sessions_keep_false_alarms_below_two_in_a_hundred(sessions: int, between: float) -> None:
    """Processes that differ raise false alarms on a single session, and at most 1 % (2 % by chance)
    on several.
    """
    alone, among = verdicts(sessions, between, change=0.0)
    assert alone.count(REGRESSION) > 0.015 * len(alone)
    assert among.count(REGRESSION) <= 0.02 * len(among)


def test_what_exceeds_the_spread_is_found() -> None:
    """Where processes differ by 0.3 %, five sessions find 5 % in at least 95 % of comparisons, and
    5 % faster too.
    """
    _, slower = verdicts(5, 0.003, change=0.05)
    _, faster = verdicts(5, 0.003, change=-0.05)
    assert slower.count(REGRESSION) >= 0.95 * len(slower)
    assert faster.count(IMPROVED) >= 0.95 * len(faster)


def test_spread_is_within_versions() -> None:
    """A program that became twice as fast adds nothing to what processes differ by; too few
    sessions say nothing.
    """
    deviation, freedom = spread([[1.0, 1.1], [2.0, 2.2]])
    assert deviation == pytest.approx(np.log(1.1) / np.sqrt(2))
    assert freedom == 2
    assert spread([[1.0], [2.0]])[1] == 0
    found = Verdict(REGRESSION, 2.0, 1.9, 2.1, 1e-6)
    assert among_sessions(found, [[1.0, 1.01]], 2.0, threshold=0.05) is found


def test_a_difference_among_runs_that_is_chance_stays_undecided() -> None:
    """Sessions that agree perfectly do not make noisy runs significant."""
    noisy = Verdict(UNDECIDED, 1.1, 0.9, 1.3, 0.3)
    assert among_sessions(noisy, [[1.0, 1.0, 1.0, 1.0]], 1.1, threshold=0.05).name == UNDECIDED
    narrow = Verdict(UNDECIDED, 1.1, 1.0999, 1.1001, 0.3)
    assert (
        among_sessions(narrow, [[1.0, 1.0001, 0.9999, 1.0]], 1.1, threshold=0.05).name == UNDECIDED
    )


TEST = """
import os, time
import pytest
import torch

@pytest.mark.xsp(levels="ML" if "LAYERS" in os.environ else "M", iterations=16, warmup=1,
                 patience_s=0,
                 max_slowdown=1.5)
def test_it(xsp):
    process, layers = float(os.environ["PROCESS"]), int(os.environ.get("LAYERS", 1))
    model = torch.nn.Sequential(*[torch.nn.ReLU() for _ in range(layers)])
    model.register_forward_pre_hook(lambda *_: time.sleep(0.01 * process))
    xsp(model, torch.ones(2))
"""


Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, virtual_clock: VirtualClock
) -> Run:
    """Run the test as a process would that is `process` times as slow as usual."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(TEST)
    plugin = ("-p", "no:xsp", "-p", "xsp.pytest_plugin", "-p", "no:cacheprovider")

    def running(*options: str, process: float = 1.0, layers: int | None = None) -> pytest.RunResult:
        monkeypatch.setenv("PROCESS", str(process))
        if layers is not None:
            monkeypatch.setenv("LAYERS", str(layers))
        return pytester.runpytest_inprocess(*plugin, *options)

    return running


def sessions(folder: Path) -> list[dict[str, object]]:
    [path] = (folder / ".xsp").rglob("*.json")
    found = json.loads(path.read_text())["baseline"]["sessions"]
    assert isinstance(found, list)
    return found


def test_sessions_are_added_and_decide(pytester: pytest.Pytester, run: Run) -> None:
    """A process twice as slow is red on one session, and undecided once the baseline knows that
    processes vary so; a process eight times as slow is red again, and the message says by how much
    processes differ.
    """
    assert run("--xsp-save").ret == 0
    red = run(process=2)
    assert red.ret == 1
    assert (
        "the baseline is of one session, so how much processes differ here is not in it (--xsp-add)"
        in red.stdout.str()
    )

    for process in (1.9, 0.8, 1.5, 1.1):
        added = run("--xsp-add", process=process)
        assert added.ret == 0
        assert "recorded: measured for a baseline" in added.stdout.str()
    assert [row["version"] for row in sessions(pytester.path)] == [0] * 5

    undecided = run(process=2)
    assert undecided.ret == 0
    assert "noise is too large to tell it from baseline 'main'" in undecided.stdout.str()
    assert "(standard deviation, 5 sessions)" in undecided.stdout.str()
    red = run(process=8)
    assert red.ret == 1
    assert "slower than baseline 'main'" in red.stdout.str()


def test_another_program_is_no_session(pytester: pytest.Pytester, run: Run) -> None:
    """--xsp-add of a model with another layer fails and saves nothing; --xsp-update begins a
    version and keeps the sessions; --xsp-add cannot be combined.
    """
    for _ in range(2):
        assert run("--xsp-add", layers=1).ret == 0
    before = sessions(pytester.path)
    assert len(before) == 2
    red = run("--xsp-add", layers=2)
    assert red.ret == 1
    assert (
        "not the program of the baseline, so not added: more than baseline 'main'"
        in red.stdout.str()
    )
    assert sessions(pytester.path) == before

    assert run("--xsp-update", layers=2).ret == 0
    assert [row["version"] for row in sessions(pytester.path)] == [0, 0, 1]
    refused = run("--xsp-add", "--xsp-save")
    assert refused.ret == 4
    assert "--xsp-add cannot be combined" in refused.stderr.str()
