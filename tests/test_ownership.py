"""Work stands under what did it: custom Functions, outputs in objects, compiled code, collectives;
and what no layer did stands under nobody's name.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from quick import backward_names, forward_names, layer_spans, measured, profiled
from torch import nn
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.usefixtures("twin")

NO_OWNER = "(no owner)"


class Twice(torch.autograd.Function):
    """Doubles; forward and backward call torch functions, as extensions' do."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.mul(x, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return torch.mul(gradients[0], 2)


kept_apply = Twice.apply


def step_of(function: Any, size: int = 4) -> Any:
    """A step that calls a function between two linear layers, forward and backward."""
    first, last = nn.Linear(size, size), nn.Linear(size, size)

    def step(x: torch.Tensor) -> None:
        last(function(first(x))).sum().backward()

    return step


def rows(prof: Any, kind: str) -> pd.DataFrame:
    spans = layer_spans(prof)
    return spans[spans["kind"] == kind]


@pytest.mark.parametrize("apply", [Twice.apply, kept_apply], ids=["looked up", "kept"])
def test_custom_function_is_a_layer_forward_and_backward(apply: Any) -> None:
    """A custom autograd.Function has a row in both phases; what its forward and backward call is
    inside it.
    """
    prof = measured(step_of(lambda x: apply(x)), torch.randn(2, 4))
    assert forward_names(prof).count("step::Twice") == 1
    assert backward_names(prof).count("step::Twice") == 1
    assert not [name for name in (*forward_names(prof), *backward_names(prof)) if "mul" in name]
    tree = prof.tree()
    assert set(tree.loc[tree["name"] == "step::Twice", "phase"]) == {"forward", "backward"}


def test_custom_function_inside_a_leaf_belongs_to_the_leaf() -> None:
    """A leaf module that applies a custom Function is the layer, forward and backward."""

    class Leaf(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = Twice.apply(x)  # type: ignore[no-untyped-call] # torch's own
            return output

    leaf = Leaf()
    prof = measured(step_of(leaf), torch.randn(2, 4))
    assert not [name for name in (*forward_names(prof), *backward_names(prof)) if "Twice" in name]
    assert "function" in backward_names(prof)


def test_function_that_holds_layers_keeps_them() -> None:
    """Layers inside a custom Function, such as that of a reentrant checkpoint, stay layers."""
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    prof = measured(step_of(lambda x: checkpoint(inner, x, use_reentrant=True)), torch.randn(2, 4))
    assert sum(name.endswith("0") for name in forward_names(prof)) == 2
    assert "step::CheckpointFunction" in backward_names(prof)
    assert NO_OWNER not in backward_names(prof)


@dataclass
class Answer:
    """An output as models of our own give it: pytree does not open it."""

    score: torch.Tensor
    note: str = ""


class Held:
    """An output that is neither container nor dataclass."""

    __slots__ = ("inner",)

    def __init__(self, inner: dict[str, list[torch.Tensor]]) -> None:
        self.inner = inner


OUTPUTS: dict[str, tuple[Any, Any]] = {
    "dataclass": (lambda y: Answer(y), lambda out: out.score),
    "own class with slots": (lambda y: Held({"all": [y]}), lambda out: out.inner["all"][0]),
    "nested tuple": (lambda y: (1, [y, None]), lambda out: out[1][0]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_are_found_wherever_they_are(kind: str) -> None:
    """The backward of a leaf that returns a dataclass, an own class or nested containers is its."""
    wrap, unwrap = OUTPUTS[kind]

    class Leaf(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return wrap(x.sin())

    leaf = Leaf()
    prof = measured(step_of(lambda x: unwrap(leaf(x))), torch.randn(2, 4))
    assert backward_names(prof).count("leaf") == 1
    assert NO_OWNER not in backward_names(prof)
    assert rows(prof, "module").set_index("name").loc["leaf", "output_shapes"] == "[[2, 4]]"


class Opaque:
    """Holds a tensor where no attribute leads to it."""

    __slots__ = ("get",)

    def __init__(self, held: torch.Tensor) -> None:
        self.get = lambda: held


def test_nodes_to_which_no_output_leads_belong_to_the_call_that_made_them() -> None:
    """A penalty that a leaf keeps in an attribute, and an output that cannot be looked into, have
    the leaf's backward, not no owner.
    """

    class Penalised(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.penalty = x.cos().sum()
            return x.sin()

    class Hiding(nn.Module):
        def forward(self, x: torch.Tensor) -> Opaque:
            return Opaque(x.exp())

    first, penalised, hiding = nn.Linear(4, 4), Penalised(), Hiding()

    def step(x: torch.Tensor) -> None:
        out = hiding(penalised(first(x))).get()
        (out.sum() + penalised.penalty).backward()

    prof = measured(step, torch.randn(2, 4))
    names = backward_names(prof)
    assert names.count("hiding") == 1
    assert {"penalised", "first"} <= set(names)
    assert NO_OWNER not in names
    kinds = prof.table("layers").query("name == 'penalised' and phase == 'backward'")["type"]
    assert {"CosBackward0", "SumBackward0", "SinBackward0"} & set(kinds)
    assert not prof.runs["unmatched"].any()


def test_nodes_of_another_thread_are_taken_for_no_call_of_this_one() -> None:
    """Threads number their nodes alike: what another thread made outside every call has no
    owner, though a call of this thread made nodes with the same numbers.
    """

    class Hiding(nn.Module):
        def forward(self, x: torch.Tensor) -> Opaque:
            for _ in range(100):
                x = x.sin()
            return Opaque(x)

    hiding, weight = Hiding(), torch.randn(2, 4, requires_grad=True)

    def made_elsewhere(first: int) -> torch.Tensor:
        while torch._C._autograd._get_sequence_nr() < first + 20:
            outside = weight.exp()
        for _ in range(10):
            outside = outside.exp()
        return outside

    def step(x: torch.Tensor) -> None:
        first = torch._C._autograd._get_sequence_nr()
        out = hiding(x).get()
        outside = other_thread.submit(made_elsewhere, first).result()
        (out.sum() + outside.sum()).backward()

    with ThreadPoolExecutor(1) as other_thread:
        prof = measured(step, torch.randn(2, 4, requires_grad=True))
    names = set(backward_names(prof))
    assert NO_OWNER in names
    assert "hiding" not in names


def test_work_of_no_owner_has_a_row_of_its_own() -> None:
    """Nodes of a graph made before the call are nobody's, and not their neighbour's."""
    source = torch.randn(2, 4, requires_grad=True)
    outside = source.exp().sin()
    layer = nn.Linear(4, 4)

    def step(x: torch.Tensor) -> None:
        layer(x).sum().backward(retain_graph=True)

    prof = measured(step, outside)
    names = backward_names(prof)
    assert names[:2] == ["step::sum", "layer"]
    assert names[2:] == [NO_OWNER, NO_OWNER]
    assert prof.runs["unmatched"].sum() == 0
    tree = prof.tree()
    assert tree.loc[tree["name"] == NO_OWNER, "calls"].tolist() == [2]


def test_several_backward_passes_share_the_row_without_owner() -> None:
    """A step with two backward passes has one row for what no layer made, and misses nothing."""
    outside = torch.randn(2, 4, requires_grad=True).exp()
    layer = nn.Linear(4, 4)

    def step(x: torch.Tensor) -> None:
        layer(x).sum().backward(retain_graph=True)
        layer(x.sin()).sum().backward(retain_graph=True)

    prof = measured(step, outside)
    tree = prof.tree()
    assert tree.loc[tree["name"] == NO_OWNER, "calls"].tolist() == [2]
    assert prof.table("layers")["name"].tolist().count(NO_OWNER) == 1
    assert not [sentence for sentence in prof.warnings if "structure run" in sentence]


def test_second_order_backward_belongs_to_the_call_that_made_it() -> None:
    """Nodes that a backward pass makes are those of the call that ran it, not of what runs before
    them.
    """
    layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    x = torch.randn(2, 4, requires_grad=True)

    def step() -> None:
        (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        gradient.pow(2).sum().backward()

    prof = measured(step)
    assert "step::grad" in backward_names(prof)
    assert NO_OWNER not in backward_names(prof)
    assert prof.runs["unmatched"].sum() == 0


def test_what_hooks_call_in_backward_has_that_phase() -> None:
    """A torch function that a tensor's hook calls is a layer of phase backward."""

    def hooked(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        y.register_hook(lambda gradient: torch.clamp(gradient, -1, 1))
        return y

    spans = layer_spans(measured(step_of(hooked), torch.randn(2, 4)))
    assert spans.set_index("name").loc["step::clamp", "phase"] == "backward"


def test_compiled_backward_belongs_to_its_compiled_forward() -> None:
    """The backward of compiled code is one layer's, and what it calls is no forward layer."""
    torch._dynamo.reset()

    def between(x: torch.Tensor) -> torch.Tensor:
        return torch.mm(x, x.T) @ x

    compiled = torch.compile(between, backend="aot_eager")
    prof = measured(step_of(compiled), torch.randn(4, 4))
    assert backward_names(prof).count("step::between") == 1
    assert not [name for name in forward_names(prof) if name.endswith(("::mm", "::t", "::matmul"))]
    assert not [sentence for sentence in prof.warnings if "compiled" in sentence]


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of this process alone."""
    store = dist.HashStore()  # type: ignore[attr-defined] # public, and exported silently
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_gradient_buckets_are_rows_of_their_own() -> None:
    """What DistributedDataParallel does to gradients is nobody's layer: filling and reducing
    buckets, and waiting for them.
    """
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))

    def step(x: torch.Tensor) -> None:
        model(x).sum().backward()

    prof = measured(step, torch.randn(2, 4))
    names = backward_names(prof)
    assert names.count("(gradient buckets)") == 2
    assert names[-1] == "(gradient synchronization)"
    assert names.count("module.0") == 1
    assert prof.runs["unmatched"].sum() == 0


@pytest.mark.usefixtures("process_group")
def test_collectives_are_layers_of_their_own() -> None:
    """A collective that Python calls is a layer; one that a hook calls in backward has that
    phase.
    """

    def reduced(gradient: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(gradient)
        return gradient

    def between(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        dist.broadcast(torch.ones(1), src=0)
        y.register_hook(reduced)
        return y

    real = dist.all_reduce
    spans = layer_spans(measured(step_of(between), torch.randn(2, 4))).set_index("name")
    assert spans.loc["step::broadcast", "phase"] == "forward"
    assert spans.loc["step::all_reduce", "phase"] == "backward"
    assert dist.all_reduce is real


def encoder(**options: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2).eval()


def test_fast_path_of_encoder_layers_stays_on() -> None:
    """nn.TransformerEncoder runs its fused kernels where layers are traced, as it does without."""
    model, x = encoder(), torch.randn(2, 3, 8)
    mask = torch.tensor([[False, False, False], [False, False, True]])
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=mask)
        prof = profiled(model, x, src_key_padding_mask=mask)
        assert torch.equal(model(x, src_key_padding_mask=mask), expected)
    fused = [name for name in forward_names(prof) if "transformer_encoder_layer_fwd" in name]
    assert fused == [f"layers.{place}::transformer_encoder_layer_fwd" for place in (0, 1)]
    assert not [sentence for sentence in prof.warnings if "other-modules" in sentence]


def test_fast_path_of_attention_stays_on() -> None:
    """nn.MultiheadAttention runs its fused kernel where layers are traced, as it does without."""
    model, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(2, 3, 8)
    with torch.no_grad():
        prof = profiled(model, x, x, x)
    assert "::native_multi_head_attention" in forward_names(prof)


def test_a_path_that_cannot_be_kept_is_said() -> None:
    """A model that asks torch for its modes runs other modules when watched: a warning names
    one.
    """

    class Shy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alone, self.watched = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            is_watched = torch._C._len_torch_function_stack() > 0
            output: torch.Tensor = self.watched(x) if is_watched else self.alone(x)
            return output

    prof = profiled(Shy(), torch.randn(2, 4))
    assert any(
        "'alone': 0 instead of 1" in sentence and "other-modules" in sentence
        for sentence in prof.warnings
    )


def test_users_own_overrides_are_still_answered() -> None:
    """`torch.overrides.has_torch_function` says what it says without xsp, for tensors and modes."""
    answers: list[list[bool]] = []

    class Own(torch.Tensor):
        pass

    class Asks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            plain = torch.overrides.has_torch_function((x,))
            own = torch.overrides.has_torch_function((x.as_subclass(Own),))
            with torch.device("cpu"):
                under_mode = torch.overrides.has_torch_function((x,))
            answers.append([plain, own, under_mode])
            return x + 1

    model, x = nn.Sequential(), torch.randn(2)
    model.asks = Asks()
    model(x)
    prof = profiled(model, x)
    assert len(answers) > 2
    assert all(each == [False, True, True] for each in answers)
    assert forward_names(prof) == ["asks"]


@pytest.mark.usefixtures("process_group")
def test_a_profile_in_a_process_group_lets_go_of_its_model() -> None:
    """What watches collectives is gone with the profile."""
    model = nn.Linear(4, 4)
    kept = weakref.ref(model)
    measured(model, torch.randn(2, 4))
    del model
    gc.collect()
    assert kept() is None
