"""The program is what it was after a profile: buffers of any kind, flags, what tracers replace,
interrupted or not.
"""

from __future__ import annotations

import copy
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
import torch
from quick import LAYERS, forward_names
from torch import nn

import xsp
from xsp.machine import torch_internals


class Calling(nn.Linear):
    """A linear layer that hands itself over before each call."""

    kept: torch.Tensor | None

    def __init__(self, watch: Callable[[Calling], object] = lambda _self: None) -> None:
        super().__init__(4, 4)
        self.watch = watch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.watch(self)
        return super().forward(x)


def with_buffer(
    buffer: torch.Tensor | None, watch: Callable[[Calling], object] = lambda _self: None
) -> Calling:
    model = Calling(watch)
    model.register_buffer("kept", buffer)
    return model


@pytest.mark.parametrize(
    "buffer",
    [
        torch.arange(4.0).expand(3, 4),
        torch.arange(8.0).as_strided((4, 4), (1, 1)),
        torch.ones(3, requires_grad=True),
        torch.eye(4).to_sparse(),
        torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
    ],
    ids=["expanded", "overlapping", "requires grad", "sparse", "nested"],
)
def test_buffers_of_every_kind_are_put_back(buffer: torch.Tensor) -> None:
    """Buffers that cannot be copied to like any tensor are no obstacle, and stay the same
    objects.
    """
    model = with_buffer(buffer)
    xsp.measure(model, torch.randn(2, 4), **LAYERS)
    assert model.kept is buffer
    assert buffer.grad_fn is None


def test_a_buffer_with_a_graph_keeps_it() -> None:
    """Putting a buffer back is not recorded by autograd, so a graph that leads through it can still
    be walked.
    """
    model = with_buffer(None)
    doubled = model.bias * 2
    model.kept = doubled
    node = doubled.grad_fn
    xsp.measure(model, torch.randn(2, 4), **LAYERS)
    assert doubled.grad_fn is node


def grow(model: Calling) -> None:
    """What a cache does: fill an empty buffer, append to a filled one."""
    model.kept = torch.ones(1) if model.kept is None else torch.cat([model.kept, model.kept])


def grow_in_place(model: Calling) -> None:
    """The same to the tensor itself."""
    assert model.kept is not None
    model.kept.data = torch.cat([model.kept, model.kept])


@pytest.mark.parametrize(
    ("buffer", "watch"),
    [(None, grow), (torch.ones(3), grow), (torch.ones(3), grow_in_place)],
    ids=["empty", "replaced", "resized"],
)
def test_caches_do_not_grow_from_run_to_run(
    buffer: torch.Tensor | None, watch: Callable[[Calling], object]
) -> None:
    """A buffer that was empty is empty again in every run, and one that grew has its old size."""
    sizes: list[int] = []

    def watched(model: Calling) -> None:
        sizes.append(-1 if model.kept is None else model.kept.numel())
        watch(model)

    model = with_buffer(buffer, watched)
    xsp.measure(model, torch.randn(2, 4), **LAYERS)
    assert set(sizes) == {-1 if buffer is None else 3}
    assert model.kept is buffer


def test_requires_grad_comes_back() -> None:
    """A model that freezes itself is not frozen afterwards, and each run begins with what
    it was.
    """
    found: list[bool] = []

    def freeze(model: Calling) -> None:
        found.append(model.weight.requires_grad)
        model.weight.requires_grad_(False)

    model = Calling(freeze)
    xsp.measure(model, torch.randn(2, 4), **LAYERS)
    assert model.weight.requires_grad
    assert all(found)


def test_parameters_that_the_model_writes_to_are_named() -> None:
    """Parameters are not copied: a model that writes to them gets a warning that names them."""

    def decay(model: Calling) -> None:
        with torch.no_grad():
            model.weight.mul_(0.9)

    x = torch.randn(2, 4)
    assert not any(
        "modified-in-place" in each for each in xsp.measure(Calling(), x, **LAYERS).warnings
    )
    warnings = xsp.measure(Calling(decay), x, **LAYERS).warnings
    assert any("(weight)" in each and "modified-in-place" in each for each in warnings)


def test_module_that_refuses_attributes_is_measured() -> None:
    """A module whose `__setattr__` raises is measured: nothing is set that has not changed."""

    class Frozen(nn.Linear):
        def __setattr__(self, name: str, value: Any) -> None:
            if "frozen" in vars(self):
                raise AttributeError(f"{name} cannot be set")
            super().__setattr__(name, value)

    model = Frozen(4, 4)
    vars(model)["frozen"] = True
    assert len(xsp.measure(model, torch.randn(2, 4), **LAYERS).tree()) == 3


COPIES: dict[str, Callable[[nn.Module], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "replica": lambda layer: layer._replicate_for_data_parallel(),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_that_a_model_makes_of_its_layers_run_their_own_weights(kind: str) -> None:
    """A copy of a layer, a DataParallel replica included, is not led back to the layer that it was
    made from.
    """
    found: list[Any] = []

    def twin(model: Copying, x: torch.Tensor) -> None:
        other = COPIES[kind](model.layer)
        vars(other)["_parameters"] = {"weight": torch.zeros(4, 4), "bias": torch.zeros(4)}
        found.append(float(other(x).detach().abs().sum()))

    class Copying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            twin(self, x)
            output: torch.Tensor = self.layer(x)
            return output

    model = Copying()
    own = set(vars(model.layer))
    assert (
        xsp.measure(model, torch.randn(2, 4), **LAYERS).tree()["name"].tolist().count("layer") == 1
    )
    assert set(found) == {0.0}
    assert set(vars(model.layer)) == own


def test_profile_inside_a_profiled_program_is_refused() -> None:
    """A program that profiles something itself cannot be profiled: their tracers would be each
    other's.
    """
    inner = nn.Linear(4, 4)
    with pytest.raises(
        xsp.XspError, match="Linear cannot be profiled by a program that is itself being profiled"
    ):
        xsp.measure(
            Calling(lambda _model: xsp.measure(inner, torch.randn(2, 4), **LAYERS)),
            torch.randn(2, 4),
            **LAYERS,
        )
    assert len(xsp.measure(inner, torch.randn(2, 4), **LAYERS).tree()) == 3


def test_lazy_model_is_refused_until_it_has_shapes() -> None:
    """Parameters that the first call makes could not be put back; the error says what to do, and
    doing it helps.
    """
    model, x = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d()), torch.randn(2, 3)
    with pytest.raises(xsp.XspError, match=r"0\.weight.*call it once"):
        xsp.measure(model, x, **LAYERS)
    model(x)
    assert len(xsp.measure(model, x, **LAYERS).tree()) == 4


def replaced() -> tuple[Any, ...]:
    """What tracers replace, and other state of the process."""
    return (
        nn.Module.__call__,
        torch_internals.BACKWARD_ENGINE.value,
        torch_internals.NVTX.value,
        torch._C._len_torch_function_stack(),
        torch_internals.is_profiling(),
        torch.is_grad_enabled(),
        signal.getsignal(signal.SIGINT),
        threading.active_count(),
    )


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("start", 3),  # of the layer tracer, in the memory run: half of it is on
        ("start", 30),  # in a later run
        ("stop", 3),
        ("stop", 30),
        ("__enter__", 3),  # of the structure recorder
        ("discovered", 10),
        ("restore_with_gradients", 2),
    ],
)
def test_interrupt_while_something_is_switched_leaves_nothing_behind(
    function: str, line: int
) -> None:
    """Ctrl-C that arrives while a tracer is being switched or state is being put back takes effect
    after it.
    """
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    x = torch.randn(3, 4)
    model(x).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    before, entries = replaced(), sorted(vars(model[0]))
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_name != function or "/xsp/" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        if lines == line:
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
        return trace

    try:
        sys.settrace(trace)
        xsp.measure(model, x, **LAYERS)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    assert lines >= line
    assert replaced() == before
    assert sorted(vars(model[0])) == entries
    assert [parameter.grad for parameter in model.parameters()] == gradients


def test_profiles_on_several_threads_wait_for_each_other() -> None:
    """Tracers replace what belongs to the process: profiles of two threads do not see each other's
    layers.
    """
    models = [
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        nn.Sequential(nn.Tanh(), nn.Linear(4, 4), nn.Tanh()),
    ]
    before, x = replaced(), torch.randn(2, 4)
    with ThreadPoolExecutor(2) as pool:
        profiles = list(pool.map(lambda model: xsp.measure(model, x, **LAYERS), models))
    assert [list(prof.tree().query("level == 'LAYER'")["type"]) for prof in profiles] == [
        ["Linear", "ReLU"],
        ["Tanh", "Linear", "Tanh"],
    ]
    assert replaced() == before


def test_one_profile_object_can_serve_several_blocks() -> None:
    """Each block gets a profile of its own calls."""
    model = nn.Linear(4, 4)
    block = xsp.profile(model, **LAYERS)
    with block as first:
        model(torch.randn(2, 4))
    with block as second:
        model(torch.randn(5, 4))
    assert [list(prof.table("calls")["input_shapes"]) for prof in (first, second)] == [
        ["[[2, 4]]"],
        ["[[5, 4]]"],
    ]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_described_by_their_parts(layout: torch.layout) -> None:
    """A nested tensor has no shape of its own; the shapes of the tensors in it are given."""
    x = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=layout)
    layers = xsp.measure(nn.Linear(4, 4), x, **LAYERS).table("layers")
    assert layers["input_shapes"].iloc[0] == "[[2, 4], [3, 4]]"


def test_every_run_finds_the_modes_that_the_user_left() -> None:
    """A forward pass that switches a layer to training mode finds it in evaluation mode each time,
    and so does the user afterwards.
    """
    found: list[bool] = []

    class Switching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found.append(self.drop.training)
            self.drop.train()
            return x

    model = Switching().eval()
    xsp.measure(model, torch.ones(1), levels="M/L", iterations=2, warmup=1, progress=False)
    assert len(found) > 4
    assert not any(found)
    assert not model.drop.training


class ImportsDynamo(nn.Module):
    """Does what importing Dynamo does: keeps `nn.Module.__call__` as it is then."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Lazily, as a first collective does."""
        dynamo = sys.modules["torch._dynamo.utils"]
        dynamo.unpatched_nn_module_call = nn.Module.__call__  # type: ignore[attr-defined] # of any module
        return x * 2


def test_what_is_imported_in_a_profile_keeps_pytorchs_own_call() -> None:
    """Dynamo, first imported by the profiled program, finds the method that it replaces."""
    import torch._dynamo.utils as dynamo

    real = nn.Module.__call__
    xsp.measure(ImportsDynamo(), torch.ones(2), **LAYERS)
    assert dynamo.unpatched_nn_module_call is real
    assert nn.Module.__call__ is real


class BuildsAtFirst(nn.Module):
    """Makes a part of itself in its first call, in place of None or where there was nothing."""

    last: Any

    def __init__(self, declared: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        if declared:
            self.last = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if getattr(self, "last", None) is None:
            self.last = nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.ones(4))
            self.register_buffer("shift", torch.ones(4))
        output: torch.Tensor = self.last(self.first(x))
        return output


@pytest.mark.parametrize("declared", [True, False])
def test_what_a_call_builds_is_the_programs_own(declared: bool) -> None:
    """Re-runs use the layer that the block's own call made, and leave it; `xsp.measure` leaves no
    layer that was not there.
    """
    model, x = BuildsAtFirst(declared), torch.randn(2, 4)
    with xsp.profile(model, **LAYERS) as prof:
        output = model(x)
        made = model.last
    assert forward_names(prof) == ["first", "last"]
    assert model.last is made
    assert torch.equal(model(x), output)
    new = BuildsAtFirst(declared)
    before = {name: list(value) for name, value in vars(new).items() if isinstance(value, dict)}
    assert forward_names(xsp.measure(new, x, **LAYERS)) == ["first", "last"]
    assert list(new.state_dict()) == ["first.weight", "first.bias"]
    assert {name: list(vars(new)[name]) for name in before} == before
