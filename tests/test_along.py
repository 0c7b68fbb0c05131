"""Profiling along the user's own loop: `prof.step()` at the end of each step."""

from __future__ import annotations

import copy
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import xsp

STEPS = 30
CALL = nn.Module.__call__


class MLP(nn.Module):
    """Two layers, a dropout that draws random numbers and a norm that keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        out: torch.Tensor = self.last(self.drop(torch.relu(self.norm(self.first(x)))))
        return out


Optimizers = Callable[[MLP], torch.optim.Optimizer]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def adam(model: MLP) -> torch.optim.Optimizer:
    """Adam."""
    return torch.optim.Adam(model.parameters(), lr=0.01)


def loader(sizes: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches drawn as the loop asks for them."""
    for size in sizes:
        yield torch.randn(size, 8), torch.randint(4, (size,))


def trained(
    make: Optimizers, sizes: list[int], profiled: bool, **options: Any
) -> tuple[dict[str, Any], xsp.Profile | None]:
    """Train from a fixed seed; what is left, and the profile if there is one."""
    torch.manual_seed(1)
    random.seed(1)
    model = MLP()
    optimizer = make(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    losses = []

    def step(batch: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach().clone())

    prof = None
    if profiled:
        with xsp.profile(model, optimizer=optimizer, **options) as prof:
            for batch, labels in loader(sizes):
                step(batch, labels)
                prof.step()
    else:
        for batch, labels in loader(sizes):
            step(batch, labels)
    left = {
        "losses": torch.stack(losses),
        "parameters": copy.deepcopy(model.state_dict()),
        "gradients": [each.grad for each in model.parameters()],
        "optimizer": optimizer.state_dict(),
        "random": (torch.get_rng_state(), random.getstate()),
    }
    assert_left_as_found(model, optimizer)
    return left, prof


def assert_left_as_found(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """No function mode, no replaced call, no hook."""
    assert not _get_current_function_mode_stack()
    assert nn.Module.__call__ is CALL
    for module in model.modules():
        assert not {"_call_impl", "__reduce_ex__"} & set(vars(module))
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.fixture(scope="module")
def along() -> xsp.Profile:
    """A profile of four rounds along a loop of equal steps."""
    _, prof = trained(sgd, [16] * STEPS, profiled=True, iterations=4, warmup=2)
    assert prof is not None
    return prof


@pytest.mark.parametrize("make", [sgd, adam])
def test_training_along_the_loop_is_bit_for_bit_the_same(make: Optimizers) -> None:
    """Losses, parameters, buffers, gradients, optimizer state and random state are those without
    xsp, in loops of steps of changing shapes too.
    """
    sizes = [16] * 12 + [5] + [16] * 12 + [3]
    with_xsp, _ = trained(make, sizes, profiled=True, iterations=3, warmup=1)
    without, _ = trained(make, sizes, profiled=False)
    torch.testing.assert_close(with_xsp, without, rtol=0, atol=0)


def test_the_step_has_rows_for_all_its_parts(along: xsp.Profile) -> None:
    """Forward layers, loss, backward, optimizer and the wait for data are rows; what is in none of
    them is the step's own time, and rows add up.
    """
    tree = along.tree()
    names = set(tree["name"])
    assert any(name.endswith("first") for name in names)
    assert any("cross_entropy" in name for name in names)
    assert {"SGD.step", "(loader)"} <= names
    assert (tree["phase"] == "backward").any()
    assert (tree["level"] == "MODEL").sum() == 1
    layers = along.table("layers")
    assert set(layers.loc[layers["type"] == "optimizer", "name"]) == {"SGD.step"}


def test_the_optimizer_is_one_row_without_its_own_functions(along: xsp.Profile) -> None:
    """What an optimizer calls is no layer of its own."""
    names = along.table("layers")["name"]
    assert not names.str.contains("foreach|add_|mul_").any()


def test_each_round_has_a_step_at_every_rung(along: xsp.Profile) -> None:
    """The rounds asked for are made, each with one timed step a rung, and nothing is unmatched."""
    runs = along.runs
    assert runs.groupby("round")["rung"].nunique().tolist() == [runs["rung"].nunique()] * 4
    assert {"M", "M/L"} <= set(runs["rung"])
    assert not runs["unmatched"].any()
    assert along.name == "MLP step"


def test_steps_of_other_shapes_are_counted_and_named() -> None:
    """A step whose inputs differ from the structure step's is in no number, and told about."""
    sizes = [16] * 3 + [16, 7] * 20
    _, prof = trained(sgd, sizes, profiled=True, iterations=3, warmup=0, levels="M/L")
    assert prof is not None
    told = [each for each in prof.warnings if "[other-steps]" in each]
    assert len(told) == 1
    assert "inputs of 7x8 instead of 16x8" in told[0]
    # The loop is followed until its rounds are made, and every step until then is counted.
    assert told[0].startswith("15 of the loop's 43 steps did other work")
    assert set(prof.table("calls")["batch_size"]) == {16}
    assert not prof.runs["unmatched"].any()


def test_steps_of_other_shapes_are_a_group_of_their_own() -> None:
    """Batches of two sizes in turn give two profiles, each with rows, rounds and shapes of its own,
    and training is still bit for bit the same.
    """
    sizes = [16, 7] * 40
    with_xsp, prof = trained(sgd, sizes, profiled=True, iterations=3, warmup=0)
    assert prof is not None
    assert isinstance(prof, xsp.profiler.BlockProfile)
    ((what, other),) = prof.groups.items()
    main_size = int(prof.table("calls")["batch_size"].iloc[0])
    other_size = int(other.table("calls")["batch_size"].iloc[0])
    assert {main_size, other_size} == {16, 7}
    assert what == f"inputs of {other_size}x8 instead of {main_size}x8"
    for each in (prof, other):
        assert each.runs["round"].max() == 2
        assert not each.runs["unmatched"].any()
    assert set(other.tree()["name"]) >= {"first", "SGD.step", "(loader)"}
    without, _ = trained(sgd, sizes, profiled=False)
    torch.testing.assert_close(with_xsp, without, rtol=0, atol=0)


def test_a_kind_that_stops_coming_ends_its_group() -> None:
    """The loop goes on unwatched where steps of a further kind do not come again."""
    model = MLP()
    optimizer = sgd(model)
    with xsp.profile(model, optimizer=optimizer, iterations=4, warmup=0) as prof:
        for batch, labels in loader([16, 7] * 3 + [16] * 250):
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()
            prof.step()
        assert_left_as_found(model, optimizer)
    assert prof.runs["round"].max() == 3
    assert prof.groups == {}


def test_schedulers_and_parameter_groups_are_rows() -> None:
    """The step of a scheduler that calls others is one row, an optimizer's parameter groups are
    one each, by their names, and the optimizer has its own list of groups afterwards.
    """
    model = MLP()
    groups: list[dict[str, Any]] = [
        {"params": model.first.parameters(), "name": "body"},
        {"params": model.last.parameters(), "name": "head", "lr": 0.01},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    own = optimizer.param_groups
    schedule = torch.optim.lr_scheduler
    parts = [schedule.ConstantLR(optimizer, total_iters=3), schedule.StepLR(optimizer, 5)]
    scheduler = schedule.SequentialLR(optimizer, parts, milestones=[4])
    before = vars(schedule.SequentialLR)["step"]
    with xsp.profile(model, optimizer=optimizer, iterations=2, warmup=0) as prof:
        for batch, labels in loader([16] * 30):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()
            scheduler.step()
            prof.step()
    layers = prof.table("layers")
    rows = dict(zip(layers["name"], layers["type"], strict=True))
    assert rows["SequentialLR.step"] == "scheduler"
    assert rows["SGD.step"] == "optimizer"
    assert {rows["SGD.step.body"], rows["SGD.step.head"]} == {"parameters"}
    assert not {"ConstantLR.step", "StepLR.step"} & set(rows)
    assert optimizer.param_groups is own
    assert vars(schedule.SequentialLR)["step"] is before
    tree = prof.tree()
    own_rows = tree[(tree["level"] != "MODEL") & (tree["level"] != "OWN")]
    whole = tree.loc[tree["level"] == "MODEL", "host_ms"].item()
    rest = tree.loc[tree["level"] == "OWN", "host_ms"].sum()
    assert own_rows["host_ms"].sum() + rest == pytest.approx(whole)


def test_an_optimizer_that_raises_keeps_its_groups() -> None:
    """An error in an optimizer's step leaves it with its own list of groups, and the loop's next
    steps are followed.
    """

    class Failing(torch.optim.SGD):
        fails = False

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for _ in self.param_groups:
                if self.fails:
                    raise FloatingPointError("the optimizer's own")
            return super().step(closure)

    model = MLP()
    groups = [{"params": model.first.parameters()}, {"params": model.last.parameters()}]
    optimizer = Failing(groups, lr=0.1)
    own = optimizer.param_groups
    with xsp.profile(model, optimizer=optimizer, iterations=2, warmup=0) as prof:
        for number, (batch, labels) in enumerate(loader([16] * 40)):
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.fails = number == 4
            if optimizer.fails:
                with pytest.raises(FloatingPointError):
                    optimizer.step()
            else:
                optimizer.step()
            prof.step()
    assert optimizer.param_groups is own
    assert prof.runs["round"].max() == 1
    assert_left_as_found(model, optimizer)


def test_ctrl_c_in_the_loop_keeps_the_rounds() -> None:
    """After Ctrl-C the complete rounds are a profile that says so; the exception goes on."""
    model = MLP()
    optimizer = sgd(model)
    kept: list[xsp.Profile] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_loop(model, optimizer, kept)
    (prof,) = kept
    assert prof.runs["round"].max() >= 4
    assert any("interrupted after round" in sentence for sentence in prof.warnings)
    assert "SGD.step" in set(prof.tree()["name"])
    assert_left_as_found(model, optimizer)


def interrupted_loop(model: MLP, optimizer: torch.optim.Optimizer, kept: list[xsp.Profile]) -> None:
    """A loop that Ctrl-C ends in its 41st step."""
    with xsp.profile(model, optimizer=optimizer, iterations=50, warmup=0) as prof:
        kept.append(prof)
        for number, (batch, labels) in enumerate(loader([16] * 60)):
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()
            if number == 40:
                raise KeyboardInterrupt
            prof.step()


def test_calls_of_the_model_can_be_the_steps() -> None:
    """With `along=True` a service's own calls are measured as they come: each once, with results
    as ever, and nothing is run again.
    """
    model = MLP().eval()
    calls = 0

    def counted(*_: Any) -> None:
        nonlocal calls
        calls += 1

    batches = [torch.randn(4, 8) for _ in range(40)]
    with torch.no_grad():
        expected = [model(batch) for batch in batches]
        model.first.register_forward_hook(counted)
        with xsp.profile(model, along=True, iterations=3, warmup=1) as prof:
            results: list[torch.Tensor] = []
            for batch in batches:
                with torch.device("cpu") if len(results) == 5 else nullcontext():
                    results.append(model(batch))
                    torch.randn(2)
    assert calls == len(batches)
    torch.testing.assert_close(results, expected, rtol=0, atol=0)
    assert prof.name == "MLP"
    assert prof.runs["round"].max() == 2
    assert {"first", "drop", "last"} <= set(prof.tree()["name"])
    assert not prof.table("layers")["name"].str.contains("randn").any()
    assert not _get_current_function_mode_stack()


def test_a_call_that_raises_is_no_step_of_the_others() -> None:
    """A call that the service handles the error of is of another kind than those that return."""
    model = MLP().eval()
    with torch.no_grad(), xsp.profile(model, along=True, iterations=2, warmup=0) as prof:
        for number in range(30):
            if number == 6:
                with pytest.raises(RuntimeError):
                    model(torch.randn(4, 9))
            model(torch.randn(4, 8))
    assert prof.runs["round"].max() == 1
    assert any("other work" in sentence for sentence in prof.warnings)


def test_along_and_steps_exclude_each_other() -> None:
    """What a step is can be said in one way only, and a model that is one layer needs
    `prof.step()`.
    """
    model = MLP()
    with pytest.raises(xsp.TargetError, match="no optimizer can take part"):
        xsp.profile(model, optimizer=sgd(model), along=True)
    with pytest.raises(xsp.TargetError, match="leave one of them out"):
        step_along(model)
    compiled: Any = torch.compile(model, backend="eager")
    for layer in (nn.Linear(8, 8), compiled):
        with pytest.raises(xsp.TargetError, match=r"call prof\.step"):
            step_along(layer)


def step_along(model: nn.Module) -> None:
    """End a step where calls are the steps."""
    with xsp.profile(model, along=True) as prof:
        prof.step()


def test_a_finished_loop_runs_none_of_xsp() -> None:
    """Once enough is known, a step runs not one Python function of xsp's but `prof.step()`, which
    returns at once.
    """
    model = MLP()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    package = str(Path(xsp.__file__).parent)
    entered: list[str] = []

    def noted(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(package):
            entered.append(frame.f_code.co_name)

    with xsp.profile(model, optimizer=optimizer, iterations=2, warmup=0) as prof:
        for number, (batch, labels) in enumerate(loader([16] * 40)):
            if number == 35:
                sys.setprofile(noted)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()
            scheduler.step()
            of_the_step = list(entered)
            prof.step()
            if number == 35:
                sys.setprofile(None)
                break
    assert of_the_step == []
    assert entered == ["step", "_step", "step"]


def test_steps_of_other_work_are_counted_and_named() -> None:
    """With gradient accumulation most steps have no optimizer step; those that have are others."""
    model = MLP()
    optimizer = sgd(model)
    with xsp.profile(model, optimizer=optimizer, iterations=2, warmup=0) as prof:
        for number, (batch, labels) in enumerate(loader([16] * 40)):
            nn.functional.cross_entropy(model(batch), labels).backward()
            if number % 3 == 0:
                optimizer.step()
                optimizer.zero_grad()
            prof.step()
    assert any("1 SGD.step instead of" in each for each in prof.warnings)
    assert "SGD.step" not in set(prof.table("layers")["name"])


def test_a_loop_of_which_no_two_steps_are_alike_is_given_up() -> None:
    """Once the time budget is spent without two equal steps, nothing stays on; the end says why."""
    model = MLP()
    optimizer = sgd(model)
    with pytest.raises(xsp.NothingRecordedError, match="were of other work"):
        ever_larger_steps(model, optimizer)


def ever_larger_steps(model: MLP, optimizer: torch.optim.Optimizer) -> None:
    """A loop of which each step has another shape, with no time to wait for equal ones."""
    with xsp.profile(model, optimizer=optimizer, budget_s=0.0) as prof:
        for batch, labels in loader(list(range(2, 12))):
            nn.functional.cross_entropy(model(batch), labels).backward()
            prof.step()
        assert_left_as_found(model, optimizer)


def test_an_error_in_the_loop_passes_unchanged_and_leaves_nothing() -> None:
    """Wherever the loop fails, the caller gets its exception as it is; all is left as found."""
    for failing in (0, 1, 2, 3, 5, 6, 7, 9):
        model = MLP()
        optimizer = sgd(model)
        error = ValueError("the loop's own")
        with pytest.raises(ValueError, match="the loop's own") as caught:
            failing_loop(model, optimizer, failing, error)
        assert caught.value is error
        assert not getattr(error, "__notes__", [])
        assert_left_as_found(model, optimizer)
    xsp.measure(MLP().eval(), torch.randn(2, 8), iterations=1, warmup=0)


def failing_loop(
    model: MLP, optimizer: torch.optim.Optimizer, failing: int, error: Exception
) -> None:
    """A loop that raises in the step of this number, inside the model's hook."""
    with xsp.profile(model, optimizer=optimizer, iterations=2, warmup=1) as prof:
        for number, (batch, labels) in enumerate(loader([16] * 20)):
            out = model(batch)
            if number == failing:
                raise error
            nn.functional.cross_entropy(out, labels).backward()
            optimizer.step()
            prof.step()


def test_tracing_is_off_once_enough_is_known() -> None:
    """After the last round no mode, hook or replaced call is left, while the loop goes on."""
    model = MLP()
    optimizer = sgd(model)
    was_on = False
    with xsp.profile(model, optimizer=optimizer, iterations=2, warmup=1) as prof:
        for batch, labels in loader([16] * 30):
            was_on = was_on or bool(_get_current_function_mode_stack())
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()
            prof.step()
        assert was_on
        assert_left_as_found(model, optimizer)
    assert prof.runs["round"].max() == 1


def test_a_loop_without_an_optimizer_can_be_followed() -> None:
    """Evaluation steps need no optimizer."""
    model = MLP().eval()
    with torch.no_grad(), xsp.profile(model, iterations=3, warmup=1) as prof:
        for batch, _ in loader([16] * 25):
            model(batch)
            prof.step()
    assert prof.runs["round"].max() == 2
    assert not (prof.table("layers")["phase"] == "backward").any()


def compiled_in_place() -> nn.Module:
    """One layer by `model.compile()`."""
    model = MLP()
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("make", [lambda: nn.Linear(8, 4), compiled_in_place])
def test_a_model_that_is_one_layer_has_its_rows(make: Callable[[], nn.Module]) -> None:
    """The wait for data ends where its call begins, and nothing of it stays stepped in."""
    model = make()
    before = dict(vars(model))
    optimizer = sgd(model)
    with xsp.profile(model, optimizer=optimizer, iterations=3, warmup=1, levels="M/L") as prof:
        for batch, labels in loader([16] * 25):
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()
            prof.step()
    layer = type(model).__name__
    assert prof.runs["round"].max() == 2
    layers = prof.table("layers")
    rows = set(zip(layers["name"], layers["phase"], strict=True))
    assert {("(loader)", "forward"), (layer, "forward"), (layer, "backward")} <= rows
    assert ("(loader)", "backward") not in rows
    assert dict(vars(model)) == before


@pytest.mark.parametrize("steps", [1, 5, 9])
def test_a_loop_that_ends_leaves_one_layer_as_it_was(steps: int) -> None:
    """Wherever the loop stands when its block ends: before, in and after the first round."""
    model = nn.Linear(8, 4)
    before = dict(vars(model))
    with (
        suppress(xsp.NothingRecordedError),
        torch.no_grad(),
        xsp.profile(model, warmup=0, levels="M/L") as prof,
    ):
        for batch, _ in loader([16] * steps):
            model(batch)
            prof.step()
    assert dict(vars(model)) == before
    assert nn.Module.__call__ is CALL


def test_a_block_without_steps_is_run_again_as_ever() -> None:
    """Where `prof.step()` is never called, the calls of the model are repeated."""
    model = MLP().eval()
    with torch.no_grad(), xsp.profile(model, iterations=2, warmup=0) as prof:
        model(torch.randn(4, 8))
    assert prof.name == "MLP"


def test_a_mode_entered_within_the_block_is_left_to_the_loop() -> None:
    """Inside a torch function mode of the loop's own, steps cannot be followed: that is said, and
    the mode ends where the loop ends it.
    """
    model = MLP()
    with pytest.raises(xsp.TargetError, match=r"call prof\.step\(\) outside of it"):
        step_inside_a_mode(model)
    assert_left_as_found(model, sgd(model))


def step_inside_a_mode(model: nn.Module) -> None:
    """End a step inside a mode that the block entered."""
    with xsp.profile(model) as prof, torch.device("cpu"):
        model(torch.randn(4, 8))
        prof.step()


def test_a_mode_of_the_loop_around_its_forward_stays_as_it_was() -> None:
    """A mode that a step enters and leaves is not disturbed by tracing."""
    model = MLP().eval()
    with torch.no_grad(), xsp.profile(model, iterations=2, warmup=1) as prof:
        for _ in range(25):
            before = len(_get_current_function_mode_stack())
            with torch.device("cpu"):
                model(torch.randn(4, 8))
            assert len(_get_current_function_mode_stack()) == before
            prof.step()
    assert not _get_current_function_mode_stack()


@pytest.mark.parametrize(
    "option", [{"metrics": "flops"}, {"serialize": True}, {"nvtx": True}, {"restore": object()}]
)
def test_options_that_need_runs_of_their_own_are_refused(option: dict[str, Any]) -> None:
    """They are refused in a sentence, before the loop begins."""
    model = MLP()
    name = next(iter(option))
    with pytest.raises(xsp.TargetError, match=f"{name}=.* needs runs of its own"):
        xsp.profile(model, optimizer=sgd(model), **option)


def test_what_is_no_optimizer_is_refused() -> None:
    """The optimizer must be torch's."""
    with pytest.raises(xsp.TargetError, match=r"must be a torch\.optim\.Optimizer"):
        xsp.profile(MLP(), optimizer="adam")  # type: ignore[arg-type] # the mistake


def test_a_loop_that_is_too_short_says_so() -> None:
    """Too few steps for a round are told with their number and what to do."""
    with pytest.raises(xsp.NothingRecordedError, match="the loop's 3 steps were too few"):
        trained(sgd, [16] * 3, profiled=True)


def test_a_loop_that_is_too_short_tells_how_much_was_other_work() -> None:
    """Steps that were not like the most frequent ones are why a round was not complete."""
    said = r"the loop's 5 steps were too few .*; 2 were of other work"
    with pytest.raises(xsp.NothingRecordedError, match=said):
        trained(sgd, [16, 16, 7, 16, 9], profiled=True, warmup=5)


class Branching(nn.Module):
    """Runs another layer for inputs that are below 0, which nobody sees from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.more = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.first(x)
        return self.more(out) if float(x.sum()) < 0 else out


def test_steps_that_run_other_layers_are_counted_and_left_out() -> None:
    """Their inputs are like the others'; what they ran tells them apart, and no number has them."""
    model = Branching()
    options: dict[str, Any] = {"iterations": 3, "warmup": 0, "levels": "M/L"}
    with torch.no_grad(), xsp.profile(model, along=True, **options) as prof:
        for number in range(40):
            model(torch.full((4, 8), -1.0 if number % 3 == 2 else 1.0))
    (told,) = [each for each in prof.warnings if "[other-steps]" in each]
    assert told.startswith("2 of the loop's 18 steps did other work")
    assert "other layers (4 calls instead of 3): 2" in told
    layers = prof.table("layers")
    assert "more" not in set(layers["name"])
    assert prof.runs["round"].max() == 2
    assert not prof.runs["unmatched"].any()


def branched(steps: int) -> None:
    """A loop whose steps run another layer from the third on."""
    model = Branching()
    with torch.no_grad(), xsp.profile(model, warmup=0, levels="M/L") as prof:
        for number in range(steps):
            model(torch.full((4, 8), 1.0 if number < 3 else -1.0))
            prof.step()


def test_a_loop_that_is_too_short_tells_of_other_layers() -> None:
    """Steps that ran other layers than the structure step are of other work too."""
    with pytest.raises(xsp.NothingRecordedError, match=r"; \d+ were of other work"):
        branched(14)


def test_a_loop_that_ends_first_keeps_its_rounds() -> None:
    """What was measured until then is the profile, and how many steps there were is told."""
    _, prof = trained(sgd, [16] * 14, profiled=True, iterations=50, warmup=0, levels="M/L")
    assert prof is not None
    assert prof.runs["round"].max() == 1
    stopped = prof._capture.meta["stopped"]
    assert stopped == "the loop ended after 14 steps, 2 rounds of which are kept"


def test_steps_on_another_thread_are_refused() -> None:
    """The loop goes on where it began; a step that is said to end elsewhere is an error there, and
    nothing stays switched on.
    """
    model = MLP()
    optimizer = sgd(model)
    refused: list[str] = []

    def elsewhere(prof: Any) -> None:
        try:
            prof.step()
        except xsp.TargetError as error:
            refused.append(str(error))

    def followed() -> None:
        with xsp.profile(model, optimizer=optimizer) as prof:
            thread = threading.Thread(target=elsewhere, args=(prof,))
            thread.start()
            thread.join()

    with pytest.raises(xsp.XspError):
        followed()
    (said,) = refused
    assert "call it where the loop runs" in said
    assert_left_as_found(model, optimizer)
