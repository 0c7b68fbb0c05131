"""xsp.measure: any callable, any levels; what is wrong is refused with the value, the rule and the
way out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from quick import LAYERS, QUICK
from torch import nn

import xsp
from xsp import Level


def test_training_step_is_really_called_again() -> None:
    """A plain callable is executed for every run and changes what it changes: the model goes on
    training.
    """
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, losses = torch.randn(16, 4), []

    def step() -> None:
        optimizer.zero_grad()
        loss = (model(x) - 1).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))

    before = model.weight.detach().clone()
    prof = xsp.measure(step, **{**LAYERS, "iterations": 3})
    assert not torch.equal(model.weight, before)
    assert losses == sorted(losses, reverse=True)
    assert len(losses) > 2 * 3
    assert prof.name.endswith("step")


def test_model_is_left_as_it_was() -> None:
    """A module handed to measure keeps its buffers, gradients and the random state."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(8, 4)
    random_state = torch.get_rng_state()
    xsp.measure(model, x, **LAYERS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_arguments_reach_the_callable() -> None:
    """Positional and keyword arguments are handed on in every run, also those that tensors
    hide in.
    """
    seen: list[Any] = []
    x = torch.ones(1)
    xsp.measure(
        lambda *args, **kwargs: seen.append((args, kwargs)), x, 3, key={"a": x}, **QUICK, levels="M"
    )
    assert all(args == (x, 3) and kwargs == {"key": {"a": x}} for args, kwargs in seen)


class Adding:
    """An object that can be called."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1

    def method(self, x: torch.Tensor) -> torch.Tensor:
        return x + 2


def test_callables_of_every_kind() -> None:
    """Functions, bound methods, objects with __call__, partial functions and torch's own can be
    measured.
    """
    kinds: list[Any] = [
        Adding(),
        Adding().method,
        torch.relu,
        partial(torch.add, 1),
        lambda x: x,
    ]
    for kind in kinds:
        prof = xsp.measure(kind, torch.ones(2), **LAYERS)
        assert prof.latency_ms > 0
        assert prof.name


@pytest.mark.parametrize("wrong", [None, 3, "model.pt", [nn.Linear(1, 1)]])
def test_what_cannot_be_called_is_refused(wrong: Any) -> None:
    """The error gives the value, its type and what is needed."""
    with pytest.raises(xsp.TargetError) as caught:
        xsp.measure(wrong, **QUICK)
    assert repr(wrong) in str(caught.value)
    assert type(wrong).__name__ in str(caught.value)
    assert "callable" in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"iterations": 0},
        {"iterations": -1},
        {"iterations": 1.5},
        {"iterations": "3"},
        {"iterations": True},
        {"warmup": -1},
        {"warmup": 0.5},
        {"warmup": "1"},
        {"budget_s": -1},
        {"budget_s": float("nan")},
        {"budget_s": "10"},
    ],
)
def test_impossible_counts_are_refused(option: dict[str, Any]) -> None:
    """Counts must be whole and large enough: the error names the option and its value, and nothing
    is run.
    """
    calls: list[int] = []
    with pytest.raises(xsp.XspError) as caught:
        xsp.measure(lambda: calls.append(1), **{**QUICK, **option})
    ((name, value),) = option.items()
    assert str(caught.value).startswith(f"{name} must be ")
    assert f"not {value!r}" in str(caught.value)
    assert calls == []


@pytest.mark.parametrize(
    "levels",
    [
        "M/L",
        "m/l",
        "ML",
        "L",
        "M,L",
        " M / L ",
        "layer",
        "model/layer",
        ["layer"],
        ["LAYER", "MODEL"],
        (Level.LAYER,),
        {Level.MODEL, Level.LAYER},
        Level.LAYER,
    ],
)
def test_ways_to_say_model_and_layer(levels: Any) -> None:
    """Levels can be given in the paper's notation, by name or as members; MODEL is always there."""
    prof = xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **QUICK, levels=levels)
    assert list(prof.levels.loc[prof.levels["status"] == "traced", "level"]) == ["MODEL", "LAYER"]
    assert set(prof.runs["rung"]) == {"M", "M/L"}


@pytest.mark.parametrize("levels", ["X", "M/Q", ["GPU"], "M/L/Kernels", [3.5], [None], 7, "", []])
def test_unknown_levels_are_refused(levels: Any) -> None:
    """A level that does not exist is refused with the list of those that do; no levels at all is
    MODEL only.
    """
    if levels in ("", []):
        assert set(xsp.measure(lambda: None, **QUICK, levels=levels).runs["rung"]) == {"M"}
        return
    with pytest.raises(xsp.LevelError, match=r"MODEL.*LAYER.*LIBRARY.*KERNEL"):
        xsp.measure(lambda: None, **QUICK, levels=levels)


def test_model_level_alone() -> None:
    """With MODEL only, one run a round, no layer is hooked and the tree is one row: the model."""
    prof = xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **QUICK, levels="M")
    assert set(prof.spans["level"]) == {"MODEL"}
    assert list(prof.tree()["level"]) == ["MODEL"]
    assert len(prof.runs) == QUICK["iterations"]
    assert prof.latency_ms == pytest.approx(prof.tree()["host_ms"].iloc[0])


def test_every_level_has_a_status_and_missing_ones_a_reason() -> None:
    """`prof.levels` has all four levels in order; what cannot be traced says why in a sentence."""
    prof = xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **QUICK)
    table = prof.levels.set_index("level")
    assert list(table.index) == [level.name for level in Level]
    assert list(table.loc[["MODEL", "LAYER"], "status"]) == ["traced", "traced"]
    for level in ("LIBRARY", "KERNEL"):
        if table.loc[level, "status"] != "traced":
            assert table.loc[level, "status"] == "unavailable"
            assert len(str(table.loc[level, "reason"]).split()) > 4
            assert level not in set(prof.spans["level"])


def test_number_of_rounds_is_the_number_asked_for() -> None:
    """`iterations` is the number of timed runs of every rung."""
    prof = xsp.measure(lambda: None, iterations=4, warmup=0, progress=False, levels="M/L")
    assert prof.runs.groupby("rung").size().to_dict() == {"M": 4, "M/L": 4}
    assert sorted(set(prof.runs["round"])) == [0, 1, 2, 3]


def test_latency_is_the_trimmed_mean_of_unprofiled_runs() -> None:
    """`latency_ms` comes from the runs at rung M alone, with its interval beside it."""
    prof = xsp.measure(
        nn.Linear(2, 2), torch.ones(1, 2), iterations=6, warmup=1, progress=False, levels="M/L"
    )
    unprofiled = prof.runs.loc[prof.runs["rung"] == "M", "latency_ns"].sort_values().to_numpy()
    assert prof.latency_ms == pytest.approx(unprofiled[1:-1].mean() / 1e6)
    assert prof.latency_ci_ms > 0


def test_error_of_the_callable_is_the_users() -> None:
    """An exception of the callable passes unchanged, with a note on the moment."""
    with pytest.raises(LookupError) as caught:
        xsp.measure(lambda: list(range(0))[1], **QUICK)
    assert str(caught.value) == "list index out of range"
    assert any(note.startswith("xsp: raised") for note in caught.value.__notes__)


def test_progress_bar_writes_nothing_when_switched_off(capfd: pytest.CaptureFixture[str]) -> None:
    """With progress=False nothing of xsp's is printed."""
    xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **LAYERS)
    out, err = capfd.readouterr()
    assert out == ""
    assert "xsp" not in err


def test_tables_are_copies() -> None:
    """Changing a table that was handed out changes nothing in the profile."""
    prof = xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **LAYERS)
    reads: tuple[Callable[[], pd.DataFrame], ...] = (
        prof.tree,
        lambda: prof.runs,
        lambda: prof.spans,
        lambda: prof.levels,
        lambda: prof.table("layers"),
    )
    for read in reads:
        table = read()
        before = table.copy()
        table.loc[:, table.columns[0]] = table.iloc[::-1, 0].to_numpy()
        table["own"] = 0
        pd.testing.assert_frame_equal(read(), before)


def test_what_was_measured_opens_again(tmp_path: Path) -> None:
    """A profile with a fitted correction passes the check of captures, and nothing changes."""
    net = nn.Sequential(*[nn.Linear(16, 16) for _ in range(12)])
    prof = xsp.measure(net, torch.rand(2, 16), **{**LAYERS, "iterations": 6})
    again = xsp.load(prof.save(tmp_path / "net.xsp"))
    assert not again.costs.empty
    pd.testing.assert_frame_equal(again.costs, prof.costs)
    pd.testing.assert_frame_equal(again.tree(), prof.tree())


def test_giving_the_output_back_is_not_part_of_the_call() -> None:
    """What a target returns is kept until its run was stamped."""
    freed: list[int] = []

    class Output:
        def __del__(self) -> None:
            freed.append(time.perf_counter_ns())

    prof = xsp.measure(lambda: Output(), iterations=4, warmup=1, progress=False, levels="M")
    calls = prof.table("model_calls")
    at = np.array(freed)
    assert len(at) > len(calls)
    for start, end in zip(calls["start_ns"], calls["end_ns"], strict=True):
        assert not ((start <= at) & (at < end)).any()
