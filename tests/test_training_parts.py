"""Training steps: optimizers, clipping, loss scaling, `zero_grad` and schedulers have rows of their
own, in a measured function and along a loop alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import training_steps
from quick import LAYERS, QUICK, backward_names, forward_names, layer_spans, measured
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import xsp
from xsp.levels.layer import parts
from xsp.levels.op import tracer as operator_tracer
from xsp.types import Level

Step = Callable[[], object]


class Net(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x).relu())
        return out


X, LABELS = torch.randn(4, 8), torch.randint(4, (4,))


def loss_of(model: nn.Module) -> torch.Tensor:
    return nn.functional.cross_entropy(model(X), LABELS)


def groups_of(model: Net) -> list[dict[str, Any]]:
    """Two parameter groups, the first of which has a name."""
    return [
        {"params": model.body.parameters(), "name": "body"},
        {"params": model.head.parameters()},
    ]


def plain_step(model: nn.Module, optimizer: Optimizer) -> Step:
    def step() -> None:
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return step


def followed(model: nn.Module, optimizer: Optimizer | None, step: Step) -> xsp.Profile:
    """The profile of a loop of such steps."""
    with xsp.profile(model, optimizer=optimizer, **LAYERS) as prof:
        for _ in range(30):
            step()
            prof.step()
    return prof


def parts_of(prof: xsp.Profile) -> list[str]:
    """Names of the parts of the last traced run, as they began."""
    spans = layer_spans(prof)
    return [str(name) for name in spans.loc[spans["kind"] == "range", "name"]]


def own_functions(prof: xsp.Profile) -> set[str]:
    """Names of functions that are rows, without what the forward and the loss call."""
    layers = prof.table("layers")
    names = layers.loc[layers["kind"] == "function", "name"].str.rpartition("::")[2]
    return set(names) - {"relu", "cross_entropy", "backward"}


# ---- rows ----

OPTIMIZERS: dict[str, tuple[str, Callable[[Any], Optimizer]]] = {
    "single tensor": ("SGD", lambda given: SGD(given, lr=0.1, momentum=0.9, foreach=False)),
    "foreach": ("SGD", lambda given: SGD(given, lr=0.1, momentum=0.9, foreach=True)),
    "fused": ("AdamW", lambda given: torch.optim.AdamW(given, fused=True)),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_is_a_row_and_so_are_its_groups(kind: str) -> None:
    """However it computes, and no function that it calls is a row."""
    model = Net()
    name, make = OPTIMIZERS[kind]
    prof = measured(plain_step(model, make(groups_of(model))))
    expected = ["zero_grad", "step", "step.body", "step.group_1"]
    assert parts_of(prof) == [f"{name}.{each}" for each in expected]
    assert own_functions(prof) == set()
    layers = prof.table("layers").set_index("name")
    assert layers.loc[f"{name}.step", "type"] == "optimizer"
    assert str(layers.loc[f"{name}.step", "source"]).rpartition(":")[0] == __file__
    assert not prof.runs["unmatched"].any()


def scaled_step(model: Net, optimizer: Optimizer) -> Step:
    """What a loop in mixed precision does."""
    scaler = torch.amp.GradScaler("cpu")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu"):
            loss = loss_of(model)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return step


SCALED = [
    "AdamW.zero_grad",
    "GradScaler.scale",
    "GradScaler.unscale_",
    "clip_grad_norm_",
    "GradScaler.step",
    "AdamW.step",
    "AdamW.step.body",
    "AdamW.step.group_1",
    "GradScaler.update",
]


@pytest.mark.usefixtures("twin")
def test_scaling_and_clipping_are_rows() -> None:
    """Each call is one row, under whatever name it was imported; backward work of the scaling is
    the scaling's.
    """
    model = Net()
    optimizer = torch.optim.AdamW(groups_of(model), fused=True)
    prof = measured(scaled_step(model, optimizer))
    assert parts_of(prof) == SCALED
    assert own_functions(prof) == set()
    assert "GradScaler.scale" in backward_names(prof)
    assert "(no owner)" not in set(prof.tree()["name"])
    assert not prof.runs["unmatched"].any()


def test_a_loop_has_the_rows_of_a_measured_step() -> None:
    """The same parts, whether the optimizer was given or not; only waiting for data comes first."""
    for given in (True, False):
        model = Net()
        optimizer = torch.optim.AdamW(groups_of(model), fused=True)
        step = scaled_step(model, optimizer)
        prof = followed(model, optimizer if given else None, step)
        assert parts_of(prof) == ["(loader)", *SCALED]
        assert not prof.runs["unmatched"].any()


@pytest.mark.skipif(
    not hasattr(torch.nn.utils, "get_total_norm"), reason="torch 2.5 has no halves of clipping"
)
def test_what_clips_is_one_row_whatever_it_calls() -> None:
    """Clipping by value, and the two halves of clipping by norm, called by themselves."""
    model = Net()
    loss_of(model).backward()
    gradients = [each.grad for each in model.parameters() if each.grad is not None]

    def clip() -> None:
        clip_grad_value_(model.parameters(), 0.5, foreach=False)
        total = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), 1.0, total)

    prof = measured(clip)
    assert forward_names(prof) == ["clip_grad_value_", "get_total_norm", "clip_grads_with_norm_"]


def test_a_scaler_that_is_off_has_no_rows() -> None:
    """It passes everything on."""
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def step() -> None:
        scaler.scale(loss_of(model)).backward()
        scaler.step(optimizer)
        scaler.update()

    assert parts_of(measured(step)) == ["SGD.step"]


def test_gradients_that_accumulate_leave_one_step() -> None:
    """Three backward passes, each with its layers, and one step of the optimizer."""
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        for _ in range(3):
            loss_of(model).backward()
        optimizer.step()

    prof = measured(step)
    tree = prof.tree()
    calls = tree[tree["level"] == "LAYER"].set_index(["name", "phase"])["calls"]
    assert calls["body", "forward"] == calls["body", "backward"] == 3
    assert calls["SGD.step", "forward"] == calls["SGD.zero_grad", "forward"] == 1
    assert sum(name.startswith("step::backward") for name, _ in calls.index) == 3


def test_a_module_can_forget_its_gradients() -> None:
    """`zero_grad` of a module is a row, by its class, and in it no function."""
    model = Net()

    def step() -> None:
        model.zero_grad(set_to_none=False)
        loss_of(model).backward()

    prof = measured(step)
    assert parts_of(prof) == ["Net.zero_grad"]
    assert own_functions(prof) == set()


def test_optimizers_of_one_class_have_numbers() -> None:
    """In the order of their first use in a step, the same in each run; schedulers, which wrap
    `step`, have rows too.
    """
    models = [Net(), Net()]
    first, second = (SGD(model.parameters(), lr=0.1) for model in models)
    other = torch.optim.Adam(models[0].head.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(second, 3)

    def step() -> None:
        for optimizer, model in ((second, models[1]), (first, models[0])):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
        other.step()
        scheduler.step()

    expected = ["zero_grad", "step", "zero_grad_1", "step_1"]
    of_sgd = [f"SGD.{each}" for each in expected]
    assert parts_of(measured(step)) == [*of_sgd, "Adam.step", "StepLR.step"]


@pytest.mark.usefixtures("twin")
def test_layers_of_a_closure_are_layers() -> None:
    """What an optimizer has a closure for is a row, and what that calls has its own."""
    model = Net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    prof = measured(lambda: optimizer.step(closure))
    assert parts_of(prof)[:3] == ["LBFGS.step", "LBFGS.step.closure", "LBFGS.zero_grad"]
    assert own_functions(prof) == set()
    assert {"body", "head"} <= set(forward_names(prof))
    assert any("cross_entropy" in name for name in backward_names(prof))


def test_a_class_that_calls_its_base_is_one_row() -> None:
    """A user's own optimizer is called by its own name."""

    class Own(SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)

    model = Net()
    prof = measured(plain_step(model, Own(model.parameters(), lr=0.1)))
    assert parts_of(prof) == ["Own.zero_grad", "Own.step"]


def test_copies_have_rows() -> None:
    """Moving and converting data are functions of the step."""
    target = torch.empty(4, 8, dtype=torch.float64)

    def step() -> None:
        target.copy_(X.to("cpu", torch.float64))
        X.cpu().pin_memory() if torch.cuda.is_available() else X.cpu()

    assert forward_names(measured(step))[:3] == ["step::to", "step::copy", "step::cpu"]


@pytest.mark.skipif(
    operator_tracer.availability() is not None, reason=str(operator_tracer.availability())
)
@pytest.mark.parametrize("kind", training_steps.OPTIMIZERS)
def test_each_part_has_the_operators_that_torchs_profiler_counts(kind: str, tmp_path: Path) -> None:
    """In every run the optimizer, clipping, scaling and `zero_grad` have as many as lie in a
    `record_function` range around each.
    """
    step = training_steps.mixed_precision(training_steps.OPTIMIZERS[kind], "cpu")
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as session:
        step()
    session.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    operators = [
        each
        for each in events
        if each.get("cat") == "cpu_op" and not each["name"].startswith("autograd::engine")
    ]
    theirs = training_steps.counted_by_torch(events, operators)
    assert {*training_steps.SCALING, "clip_grad_norm_", ""} < set(theirs)
    prof = xsp.measure(step, **QUICK, levels="M/L/O")
    assert training_steps.counted_by_xsp(prof, Level.OP) == [theirs] * 2


def test_the_table_of_a_training_step_adds_up() -> None:
    """Rows below a node, own time among them, make the node."""
    model = Net()
    optimizer = torch.optim.AdamW(groups_of(model))
    tree = measured(scaled_step(model, optimizer)).tree()
    below = tree[tree["parent"] >= 0].groupby("parent")[["host_ms", "latency_ms"]].sum()
    whole = tree.set_index("node").loc[below.index, ["host_ms", "latency_ms"]]
    pd.testing.assert_frame_equal(whole, below, check_names=False)


# ---- left as found ----


def test_a_step_that_raises_leaves_the_optimizer_as_it_was() -> None:
    """Where the program goes on, too: its groups are its own, and functions after it are rows."""

    class Failing(SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for _ in self.param_groups:
                raise FloatingPointError("the optimizer's own")

    model = Net()
    optimizer = Failing(groups_of(model), lr=0.1)
    own = optimizer.param_groups
    kept: list[bool] = []

    def step() -> None:
        with pytest.raises(FloatingPointError):
            optimizer.step()
        kept.append(optimizer.param_groups is own)
        torch.neg(X)

    assert forward_names(measured(step)) == ["Failing.step", "Failing.step.body", "step::neg"]
    assert all(kept)
    with pytest.raises(FloatingPointError):
        measured(optimizer.step)
    assert optimizer.param_groups is own


def test_hooks_of_the_program_are_called() -> None:
    """Its own hooks, before a step and after it, come as often as the step is made."""
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)
    counted = [0, 0, 0]

    def count(place: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            counted[place] += 1

        return hook

    handles = [
        optimizer.register_step_pre_hook(count(0)),
        optimizer.register_step_post_hook(count(1)),
    ]
    plain = plain_step(model, optimizer)

    def step() -> None:
        plain()
        counted[2] += 1

    measured(step)
    assert counted[0] == counted[1] == counted[2] > 0
    for handle in handles:
        handle.remove()


def test_training_with_and_without_xsp_is_bit_for_bit_the_same() -> None:
    """As many steps, measured or not, end with the same parameters."""

    def trained(run: Callable[[Step], int]) -> tuple[int, Sequence[torch.Tensor]]:
        torch.manual_seed(1)
        model = Net()
        step = scaled_step(model, torch.optim.AdamW(groups_of(model)))
        return run(step), [each.detach() for each in model.parameters()]

    def with_xsp(step: Step) -> int:
        made = [0]

        def counted() -> None:
            step()
            made[0] += 1

        measured(counted)
        return made[0]

    steps, parameters = trained(with_xsp)

    def without(step: Step) -> int:
        for _ in range(steps):
            step()
        return steps

    torch.testing.assert_close(parameters, trained(without)[1], rtol=0, atol=0)


def test_timed_runs_of_other_programs_meet_none_of_it() -> None:
    """What trains nothing runs with torch's own functions, but for the structure run."""
    kinds = Optimizer, nn.Module
    own = [vars(kind)["zero_grad"] for kind in kinds]
    replaced: list[bool] = []

    def call() -> None:
        replaced.append([vars(kind)["zero_grad"] for kind in kinds] != own)
        torch.neg(X)

    measured(call)
    assert sum(replaced) == 1


def test_a_part_that_an_interrupt_left_open_is_forgotten() -> None:
    """The next profile has its rows all the same."""
    parts.begin(parts.Part("clip_grad_norm_", "clipping", is_call=True))
    model = Net()
    assert forward_names(measured(lambda: clip_grad_norm_(model.parameters(), 1.0))) == [
        "clip_grad_norm_"
    ]


# ---- compiled code ----


def compilations() -> int:
    import torch._dynamo.utils as dynamo

    return int(dynamo.counters["frames"]["total"])


@pytest.mark.parametrize("along", [False, True])
def test_a_compiled_optimizer_is_compiled_once(along: bool) -> None:
    """Nothing of xsp is traced into it, and the program compiles nothing again, then and after."""
    model = Net()
    optimizer = SGD(groups_of(model), lr=0.1)
    compiled = torch.compile(optimizer.step, backend="eager")

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model).backward()
        compiled()

    step()
    step()
    before = compilations()
    prof = followed(model, optimizer, step) if along else measured(step)
    step()
    assert compilations() == before
    names = forward_names(prof)
    assert "SGD.zero_grad" in names
    assert "step::step" in names


def test_what_an_optimizer_compiles_sees_it_as_it_is() -> None:
    """A compiled function that a step calls finds the optimizer's own groups, and is compiled as
    often as without xsp.
    """

    class Scaling(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1})

        @torch.compile(backend="eager")
        def scaled(self, value: torch.Tensor) -> torch.Tensor:
            rate: float = self.param_groups[0]["lr"]
            return value * rate

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for each in group["params"]:
                    each.sub_(self.scaled(each.grad))

    model = Net()
    optimizer = Scaling(groups_of(model))
    step = plain_step(model, optimizer)
    step()
    step()
    before = compilations()
    prof = measured(step)
    step()
    assert compilations() == before
    assert parts_of(prof)[1:] == ["Scaling.step", "Scaling.step.body", "Scaling.step.group_1"]


@pytest.mark.parametrize("along", [False, True])
def test_hooks_of_the_program_may_run_compiled_code(along: bool) -> None:
    """torch goes through the hooks of an optimizer meanwhile, which must stay as they are."""
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.1)

    @torch.compile(backend="eager")
    def norm(value: torch.Tensor) -> torch.Tensor:
        return value.square().sum()

    def hook(*_: Any) -> None:
        norm(X)

    handles = [
        optimizer.register_step_pre_hook(hook),
        optimizer.register_step_post_hook(hook),
        register_optimizer_step_pre_hook(hook),
        register_optimizer_step_post_hook(hook),
    ]
    try:
        step = plain_step(model, optimizer)
        prof = followed(model, optimizer, step) if along else measured(step)
    finally:
        for each in handles:
            each.remove()
    assert parts_of(prof)[-2:] == ["SGD.zero_grad", "SGD.step"]
