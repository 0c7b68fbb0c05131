"""`with xsp.profile(model)`: what is recorded, re-run, refused, and that everything is left as it
was found.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from function_modules import Watching
from quick import LAYERS, QUICK, forward_names, profiled
from torch import nn

import xsp
from xsp.measuring.call_recorder import MAX_CALLS


def hooks_of(model: nn.Module) -> dict[str, int]:
    """Number of hooks of every kind on every module."""
    return {
        f"{name}.{kind}": len(table)
        for name, module in model.named_modules()
        for kind, table in vars(module).items()
        if kind.endswith("_hooks") or "_hooks_" in kind
    }


def generators() -> tuple[Any, ...]:
    """States of the random generators, comparable."""
    state = np.random.get_state(legacy=False)
    keys, place = state["state"]["key"].tobytes(), state["state"]["pos"]
    gauss = (state["has_gauss"], state["gauss"])
    return random.getstate(), (keys, place, *gauss), tuple(torch.get_rng_state().tolist())


def state_of(model: nn.Module) -> dict[str, Any]:
    """Values of parameters, buffers and flags, comparable."""
    values = {name: value.tolist() for name, value in model.state_dict().items()}
    return values | {f"{name}.training": module.training for name, module in model.named_modules()}


def draw_all(_self: nn.Module) -> None:
    """Use every random generator."""
    random.random(), np.random.random(), torch.rand(1)


def test_block_and_everything_after_it_compute_what_they_do_without_xsp() -> None:
    """Outputs, buffers and random generators after the block are bit for bit those of the same
    block unprofiled.
    """

    def run(profiling: bool) -> tuple[Any, ...]:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        model, x = Watching(draw_all), torch.randn(8, 4)
        if profiling:
            with xsp.profile(model, **LAYERS):
                outputs = [model(x), model(x)]
        else:
            outputs = [model(x), model(x)]
        return (
            [output.tolist() for output in outputs],
            state_of(model),
            generators(),
            torch.rand(3).tolist(),
        )

    assert run(profiling=True) == run(profiling=False)


class Waiting(nn.Module):
    """Lets another thread draw a number from Python's generator in each of its calls but the first
    ones.
    """

    calls = 0
    drawn: ClassVar[list[int]] = []  # of the class: what a module keeps itself is put back

    def __init__(self) -> None:
        super().__init__()
        self.pool = ThreadPoolExecutor(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Waiting.calls += 1
        if self.calls > 3:
            self.drawn.append(self.pool.submit(random.getrandbits, 128).result())
        return x + 1


def test_other_threads_never_draw_a_number_twice() -> None:
    """What another thread draws from Python's generator while a model is profiled, such as the ids
    of a service's other requests, it draws once: the generator is not put back for a model that
    does not use it.
    """
    model = Waiting()
    with xsp.profile(model, **QUICK):
        model(torch.ones(2))
    model(torch.ones(2))
    model.pool.shutdown()
    assert len(set(model.drawn)) == len(model.drawn) > 10


class Choosing(nn.Module):
    """Calls one of two layers, by Python's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.tails = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.heads(x) if random.random() < 0.5 else self.tails(x)
        return output


@pytest.mark.parametrize("seed", range(4))
def test_layers_of_a_model_that_chooses_at_random_are_those_of_the_recorded_call(seed: int) -> None:
    """A model that decides by Python's generator is profiled on the way that its call in the block
    went.
    """
    random.seed(seed)
    expected = "heads" if random.random() < 0.5 else "tails"
    random.seed(seed)
    model = Choosing()
    with xsp.profile(model, **LAYERS) as prof:
        model(torch.ones(2, 4))
    assert list(prof.tree()["name"])[1:] == [expected, "(own time)"]


def test_re_runs_start_from_the_random_state_of_the_recorded_call() -> None:
    """Dropout masks, and so outputs, of all re-runs are those of the call in the block."""
    outputs: list[torch.Tensor] = []

    class Kept(nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            outputs.append(x.detach().clone())
            return x

    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), Kept())
    with xsp.profile(model, **LAYERS):
        torch.rand(7)
        model(torch.randn(8, 4))
    assert len(outputs) > 4
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_every_re_run_finds_the_buffers_of_the_end_of_the_block() -> None:
    """Batch statistics do not drift from run to run, and are the user's afterwards."""
    seen: list[Any] = []
    model = Watching(lambda self: seen.append([buffer.tolist() for buffer in self.norm.buffers()]))
    with xsp.profile(model, **LAYERS):
        model(torch.randn(8, 4))
    end = [buffer.tolist() for buffer in model.norm.buffers()]
    assert int(model.norm.get_buffer("num_batches_tracked")) == 1
    assert all(state == end for state in seen[1:])


def test_gradients_keep_identity_and_value() -> None:
    """The very gradient tensors are there afterwards, unchanged; modules without one have none."""
    model = Watching()
    with xsp.profile(model, **LAYERS):
        model(torch.randn(8, 4)).sum().backward()
        before = {
            name: (p.grad, p.grad.clone())
            for name, p in model.named_parameters()
            if p.grad is not None
        }
    after = dict(model.named_parameters())
    assert before
    assert all(
        after[name].grad is grad and torch.equal(grad, value)
        for name, (grad, value) in before.items()
    )


def test_graph_made_in_the_block_can_be_walked_after_it() -> None:
    """A loss computed in the block, through buffers that autograd saved, gives its gradients after
    the profile.
    """

    class Scaled(nn.Module):
        scale: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.register_buffer("scale", torch.full((4,), 2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                self.scale.add_(1)
            output: torch.Tensor = self.norm(self.linear(x)) * self.scale
            return output

    model, x = Scaled(), torch.randn(8, 4)
    alone = copy.deepcopy(model)
    alone(x).pow(2).sum().backward()
    with xsp.profile(model, **LAYERS):
        loss = model(x).pow(2).sum()
    loss.backward()
    gradients = [each.linear.weight.grad for each in (model, alone)]
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])


def test_training_flags_come_back() -> None:
    """A forward that switches modules between training and evaluation leaves the flags the user
    set.
    """
    model = Watching(lambda self: self.norm.train(not self.norm.training))
    model(torch.randn(8, 4))
    with xsp.profile(model, **LAYERS):
        model(torch.randn(8, 4))
        flags = [module.training for module in model.modules()]
    assert [module.training for module in model.modules()] == flags


def test_no_hooks_stay() -> None:
    """After the block the hook tables of every module are as before, the user's own hooks
    included.
    """
    model = Watching()
    model.linear.register_forward_hook(lambda *_: None)
    before = hooks_of(model)
    profiled(model, torch.randn(8, 4))
    assert hooks_of(model) == before


def failing_at(call: int) -> Callable[..., None]:
    """A hook that raises on its n-th call."""
    calls = count()

    def hook(*_: Any) -> None:
        if next(calls) == call:
            raise ValueError("the user's own message")

    return hook


@pytest.mark.parametrize("call", range(1, 12))
def test_an_error_in_a_re_run_is_the_users_and_leaves_nothing(call: int) -> None:
    """Whichever run fails: the exception is unchanged but for a note, and model, generators and
    hooks are restored.
    """
    model = Watching()
    model.dropout.register_forward_pre_hook(failing_at(call))
    hooks = hooks_of(model)
    block: list[Any] = []
    error: BaseException | None = None
    try:
        with xsp.profile(model, **{**LAYERS, "iterations": 3}):
            model(torch.randn(8, 4))
            block += [state_of(model), generators()]
    except ValueError as caught:
        error = caught
    assert error is not None, "a profile of three rounds executes the model more often than that"
    assert type(error) is ValueError
    assert str(error) == "the user's own message"
    (note,) = error.__notes__
    assert note.startswith("xsp: raised")
    assert [state_of(model), generators()] == block
    assert hooks_of(model) == hooks
    assert torch._C._len_torch_function_stack() == 0


class Raising(nn.Module):
    """A leaf that raises on its n-th call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.hook = failing_at(call)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.hook()
        return x


def test_note_names_the_layer() -> None:
    """An error inside a layer carries a note that names it, in the first run and wherever layers
    are traced.
    """
    notes: list[str] = []
    for call in range(12):
        model = nn.Sequential(nn.Linear(4, 4), Raising(call), nn.Linear(4, 4))
        with pytest.raises(ValueError, match="the user's own") as caught:
            xsp.measure(model, torch.randn(2, 4), **{**LAYERS, "iterations": 4})
        notes += caught.value.__notes__
    assert len(notes) == 12
    assert "'1'" in notes[0]
    at_layer_rung = [note for note in notes if "rung M/L" in note]
    assert at_layer_rung
    assert all("'1'" in note for note in at_layer_rung)


def test_note_names_what_is_no_layer_of_the_program() -> None:
    """A model of layers has no name in itself: the note has its class. What raised outside every
    module has neither.
    """

    def without() -> None:
        raise ValueError("the user's own")

    class Model(nn.Sequential):
        def forward(self, *_: object) -> None:
            without()

    for target, where in ((Model(nn.Linear(1, 1)), "in Model, "), (without, "")):
        with pytest.raises(ValueError, match="the user's own") as caught:
            xsp.measure(target, **LAYERS)
        assert caught.value.__notes__ == [f"xsp: raised {where}while xsp looked for its layers"]


def test_error_in_the_block_is_the_users_and_nothing_is_run_again() -> None:
    """A block that raises ends with that exception; the model is not executed again and no hook
    stays.
    """
    calls: list[int] = []
    model = Watching(lambda _self: calls.append(1))
    with pytest.raises(KeyError) as caught, xsp.profile(model, **LAYERS) as prof:  # noqa: PT012 - the block is the test
        model(torch.randn(8, 4))
        raise KeyError("the user's own")
    assert caught.value.args == ("the user's own",)
    assert len(calls) == 1
    assert not any(hooks_of(model).values())
    with pytest.raises(xsp.XspError, match="empty"):
        prof.tree()


class RaisingOnce(nn.Module):
    """Raises in its second call, which it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 4), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("the user's own")
        output: torch.Tensor = self.layer(x)
        return output


def test_a_re_run_that_raises_where_the_block_did_not_says_why() -> None:
    """The call that raised in the block is not made again, so the third is the second: the error
    tells that the block's own call had returned. The model is as the block left it.
    """
    model, x = RaisingOnce(), torch.randn(2, 4)
    with pytest.raises(RuntimeError) as caught, xsp.profile(model, **LAYERS):  # noqa: PT012 - the block is the test
        model(x)
        with suppress(RuntimeError):
            model(x)
        model(x)
    (note,) = caught.value.__notes__
    assert "in the block the call had returned" in note
    assert "calls that raised there" in note
    assert model.calls == 3


def test_call_that_failed_and_was_handled_is_not_profiled() -> None:
    """A call of the model that raised in the block is left out; the others are profiled."""
    model = Watching()
    with xsp.profile(model, **LAYERS) as prof:
        with pytest.raises(RuntimeError):
            model(torch.randn(8, 3))
        model(torch.randn(8, 4))
    assert len(prof.table("calls")) == 1
    assert any("raised" in sentence for sentence in prof.warnings)


def test_block_in_which_every_call_failed_says_so() -> None:
    """When no call returned there is nothing to run again, and the error says why."""
    model = Watching()
    never = pytest.raises(xsp.NothingRecordedError, match="raised each time")
    with never, xsp.profile(model, **LAYERS), pytest.raises(RuntimeError):
        model(torch.randn(8, 3))


def test_never_called_names_the_class() -> None:
    """A block that never calls the model says so, with the class and the way out."""
    with (
        pytest.raises(xsp.NothingRecordedError, match=r"Watching.*xsp\.measure"),
        xsp.profile(Watching(), **LAYERS),
    ):
        pass


@pytest.mark.parametrize(
    "read",
    ["spans", "runs", "levels", "environment", "latency_ms", "kernel_count", "lost", "trace"],
)
def test_reading_before_the_end_says_when_to_read(read: str) -> None:
    """Inside the block the profile is empty, and reading it says when the numbers are there."""
    model = nn.Linear(2, 2)
    with xsp.profile(model, **LAYERS) as prof:
        with pytest.raises(xsp.XspError, match="block has ended"):
            getattr(prof, read)
        model(torch.ones(1, 2))
    getattr(prof, read)


class Adding(nn.Module):
    """Writes to its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)


def test_model_that_changes_its_own_input_changes_it_once() -> None:
    """A model that writes to its input has written to it as often as the block called it."""
    x = torch.zeros(2, 4)
    model = Adding()
    with xsp.profile(model, **LAYERS) as prof:
        model(x)
    assert torch.equal(x, torch.ones(2, 4))
    assert not any("modified" in sentence for sentence in prof.warnings)


def test_calls_beyond_the_limit_are_noted() -> None:
    """More calls than are kept: the first are profiled, and a note gives both numbers."""
    model = nn.Linear(4, 4)
    with xsp.profile(model, **LAYERS) as prof:
        for _ in range(MAX_CALLS + 3):
            model(torch.randn(2, 4))
    assert len(prof.table("calls")) == MAX_CALLS
    assert any(
        str(MAX_CALLS + 3) in sentence and str(MAX_CALLS) in sentence for sentence in prof.warnings
    )


def test_calls_with_much_memory_are_kept_only_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once copies of inputs take more than is allowed, no further calls are kept, but 16 are in any
    case.
    """
    monkeypatch.setattr("xsp.measuring.call_recorder.MAX_BYTES", 20 * 32)
    model = nn.Linear(4, 4)
    for calls, size, kept in ((40, 2, 21), (20, 8, 16)):
        with xsp.profile(model, **LAYERS) as prof:
            for _ in range(calls):
                model(torch.randn(size, 4))
        assert len(prof.table("calls")) == kept
        assert any(f"the first {kept} calls" in sentence for sentence in prof.warnings)


def test_several_calls_are_several_model_spans() -> None:
    """Every call of the block is a MODEL span of each run, with the shapes and the batch size of
    its inputs.
    """
    model = nn.Linear(4, 4)
    with xsp.profile(model, **LAYERS) as prof:
        model(torch.randn(2, 4))
        model(torch.randn(5, 4))
    spans = prof.spans[prof.spans["level"] == "MODEL"]
    assert (spans.groupby("run").size() == 2).all()
    assert list(prof.table("calls")["batch_size"]) == [2, 5]
    assert list(prof.table("calls")["input_shapes"]) == ["[[2, 4]]", "[[5, 4]]"]


def test_recursive_models_are_called_once() -> None:
    """A model whose forward calls itself is one call, not two."""

    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, depth: int = 2) -> torch.Tensor:
            return self(self.linear(x), depth - 1) if depth else x

    prof = profiled(Recursive(), torch.randn(2, 4))
    assert len(prof.table("calls")) == 1
    assert forward_names(prof) == ["linear", "linear"]


@dataclass
class Output:
    """A dataclass output."""

    logits: torch.Tensor
    text: str


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: {"logits": y, "text": "a"},
        lambda y: (y, [y, None]),
        lambda y: Output(y, "a"),
        lambda _y: "no tensor at all",
        lambda _y: None,
        lambda y: iter([y]),
    ],
)
def test_outputs_of_any_kind(wrap: Any) -> None:
    """Models may return dictionaries, tuples, dataclasses, strings, iterators or nothing."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, *, x: torch.Tensor, **_: Any) -> Any:
            return wrap(self.linear(x))

    prof = profiled(Model(), x=torch.randn(3, 4), labels=None, mask={"a": torch.ones(1)})
    assert forward_names(prof) == ["linear"]
    assert list(prof.table("calls")["batch_size"]) == [3]


def test_scripted_and_frozen_models_can_be_profiled() -> None:
    """A TorchScript model, with buffers, is profiled and left as it was."""
    model = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    with xsp.profile(model, **LAYERS) as prof:
        model(torch.randn(8, 4))
        before = copy.deepcopy(model.state_dict())
    assert prof.latency_ms > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_model_made_under_inference_mode() -> None:
    """Buffers that are inference tensors are restored too."""
    with torch.inference_mode():
        model = Watching()
        with xsp.profile(model, **LAYERS):
            model(torch.randn(8, 4))
            before = state_of(model)
        assert state_of(model) == before


def test_only_a_module_can_be_profiled_in_a_block() -> None:
    """Anything but a module is refused before the block starts, with the way out."""
    for wrong in (None, 3, "model.pt", lambda: None):
        with pytest.raises(xsp.TargetError, match=r"torch\.nn\.Module.*xsp\.measure"):
            xsp.profile(wrong, **QUICK)  # type: ignore[arg-type]
