"""Backward work is led to the forward layer that caused it, and the graph is given back as
it was.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from quick import LAYERS, backward_names, forward_names, layer_spans, measured
from torch import nn
from torch.utils.checkpoint import checkpoint

import xsp

pytestmark = pytest.mark.usefixtures("twin")


class Net(nn.Module):
    """Linear layers with a function between them that tests choose."""

    def __init__(self, between: Any = F.relu) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.second(self.between(self.first(x)))
        return output


def step_of(model: nn.Module) -> Any:
    """A function that runs the model forward and backward."""

    def step(x: torch.Tensor) -> None:
        model(x).sum().backward()

    return step


def grouped(names: list[str]) -> list[str]:
    """Names without immediate repetitions: a layer has one or several graph nodes."""
    return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


def test_backward_nodes_carry_their_layers_names_in_reverse_order() -> None:
    """Backward spans are named by the forward layers, last layer first."""
    names = backward_names(measured(step_of(Net()), torch.randn(2, 4)))
    assert grouped(names) == ["step::sum", "second", "::relu", "first"]


def test_tree_keeps_forward_and_backward_apart() -> None:
    """The hierarchical table has one node per layer and phase, both with the layer's type."""
    tree = measured(step_of(Net()), torch.randn(2, 4)).tree()
    rows = tree[tree["name"] == "first"].set_index("phase")
    assert set(rows.index) == {"forward", "backward"}
    assert set(rows["type"]) == {"Linear"}
    assert (rows["host_ms"] > 0).all()


def test_backward_span_lies_in_the_backward_call() -> None:
    """On the CPU, where backward runs on the caller's thread, its nodes are children of the
    backward call.
    """
    spans = layer_spans(measured(step_of(Net()), torch.randn(2, 4)))
    entry = spans[spans["type"] == "backward"].iloc[0]
    nodes = spans[spans["kind"] == "autograd"]
    assert set(nodes["parent_id"]) == {entry["span_id"]}
    assert (nodes["end_ns"] <= entry["end_ns"]).all()


def test_shared_module_collects_the_backward_of_every_call() -> None:
    """A module used twice has backward spans for both uses, at their places in the
    backward pass.
    """

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = self.layer(F.relu(self.layer(x)))
            return output

    assert grouped(backward_names(measured(step_of(Shared()), torch.randn(2, 4)))) == [
        "step::sum",
        "layer",
        "::relu",
        "layer",
    ]


def test_in_place_activation_owns_its_backward() -> None:
    """The backward of an in-place ReLU belongs to it, not to the layer whose output it
    overwrote.
    """
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
    spans = layer_spans(measured(step_of(model), torch.randn(2, 4)))
    types = spans[spans["kind"] == "autograd"].set_index("type")["name"].astype(str)
    assert types["ReluBackward0"] == "1"
    assert set(types["AddmmBackward0"]) == {"0", "2"}


def test_in_place_functional_calls_own_their_backward() -> None:
    """`x += y` and F.relu(x, inplace=True) outside leaf modules own their own backward nodes."""

    def between(x: torch.Tensor) -> torch.Tensor:
        x += 1
        return F.relu(x.mul_(2), inplace=True)

    spans = layer_spans(measured(step_of(Net(between)), torch.randn(2, 4)))
    types = spans[spans["kind"] == "autograd"].set_index("type")["name"].astype(str)
    assert types["ReluBackward0"] == "::relu"
    assert types["MulBackward0"] == "::mul"


def test_residual_sum_owns_only_its_own_node() -> None:
    """Of a residual connection, the sum owns the AddBackward node and neither branch."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            stem = self.stem(x)
            output: torch.Tensor = self.branch(stem) + stem
            return output

    spans = layer_spans(measured(step_of(Block()), torch.randn(2, 4)))
    nodes = spans[spans["kind"] == "autograd"]
    assert set(nodes.loc[nodes["name"] == "::add", "type"]) == {"AddBackward0"}
    assert (
        Counter(nodes["name"].astype(str))["stem"] == Counter(nodes["name"].astype(str))["branch"]
    )


def nodes_of(prof: xsp.Profile, name: str) -> list[str]:
    """Types of the graph nodes that have spans of a layer, in the order of one backward pass."""
    spans = layer_spans(prof)
    return (
        spans.loc[(spans["kind"] == "autograd") & (spans["name"] == name), "type"]
        .astype(str)
        .tolist()
    )


def test_nodes_inside_a_layer_share_its_outputs_span() -> None:
    """A linear layer of three dimensions has several nodes, which autograd runs one after the
    other: one span.
    """
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    x = torch.randn(2, 3, 4)
    assert "View" in model(x).grad_fn.name(), "the last linear layer's product lies behind a view"
    prof = measured(step_of(model), x)
    assert nodes_of(prof, "0") == nodes_of(prof, "2") == ["AddmmBackward0"]
    assert nodes_of(prof, "1") == ["NativeLayerNormBackward0"]
    assert not [sentence for sentence in prof.warnings if "unknown" in sentence]


class Tapped(nn.Module):
    """A leaf that keeps a tensor from its middle, whose gradient need not come through its
    output.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.middle = x.sin()
        return self.middle.cos()


@pytest.mark.parametrize("whole", [False, True])
def test_a_node_that_runs_without_its_layers_output_has_a_span(whole: bool) -> None:
    """What runs in the middle of a layer, but not after its output, is that layer's all
    the same.
    """
    tapped, after = Tapped(), nn.Linear(4, 4)
    first = nn.Linear(4, 4)

    def step(x: torch.Tensor) -> None:
        y = after(tapped(first(x)))
        (y.sum() + tapped.middle.exp().sum() if whole else tapped.middle.exp().sum()).backward()

    prof = measured(step, torch.randn(2, 4))
    assert nodes_of(prof, "tapped") == (["CosBackward0"] if whole else ["SinBackward0"])
    assert grouped(backward_names(prof))[-2:] == ["tapped", "first"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_are_recomputed_inside_backward(reentrant: bool) -> None:
    """A checkpointed segment's layers run a second time during backward, and its backward finds
    them.
    """

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 4)
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output: torch.Tensor = checkpoint(self.inner, self.stem(x), use_reentrant=reentrant)
            return output

    model = Checkpointed()
    prof = measured(step_of(model), torch.randn(2, 4))
    assert prof.runs["unmatched"].sum() == 0
    names = forward_names(prof)
    assert names.count("inner.0") == 2
    assert names.count("stem") == 1
    assert {"stem", "inner.0", "inner.1"} <= set(backward_names(prof))


def test_gradients_by_autograd_grad() -> None:
    """torch.autograd.grad is a backward pass like any other."""
    model = Net()

    def step(x: torch.Tensor) -> None:
        torch.autograd.grad(model(x).sum(), list(model.parameters()))

    assert grouped(backward_names(measured(step, torch.randn(2, 4)))) == [
        "step::sum",
        "second",
        "::relu",
        "first",
    ]


def test_double_backward_keeps_running() -> None:
    """Backward through a backward pass (gradient penalty) is profiled, gives the same gradients,
    and matches.
    """
    model = Net(torch.tanh)
    x = torch.randn(2, 4, requires_grad=True)

    def penalty() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return torch.autograd.grad(
            gradient.pow(2).sum(), list(model.parameters()), allow_unused=True
        )[0]

    expected = penalty()
    seen: list[torch.Tensor] = []
    prof = measured(lambda: seen.append(penalty()))
    assert all(torch.equal(one, expected) for one in seen)
    assert prof.runs["unmatched"].sum() == 0
    assert {"first", "second", "::tanh"} <= set(backward_names(prof))


def test_retained_graph_and_several_losses() -> None:
    """A graph that is walked twice gives its layers twice as many backward spans."""
    model = Net()

    def step(x: torch.Tensor) -> None:
        y = model(x)
        (y.sum()).backward(retain_graph=True)
        (y.mean()).backward()

    names = Counter(backward_names(measured(step, torch.randn(2, 4))))
    once = Counter(backward_names(measured(step_of(model), torch.randn(2, 4))))
    assert names["first"] == 2 * once["first"]
    assert names["second"] == 2 * once["second"]
    assert names["step::sum"] == names["step::mean"] == once["step::sum"]


def test_frozen_layers_have_no_backward_of_their_weights() -> None:
    """Frozen parameters before the first trained layer mean no backward spans there."""
    model = Net()
    model.first.requires_grad_(requires_grad=False)
    names = set(backward_names(measured(step_of(model), torch.randn(2, 4))))
    assert "second" in names
    assert "first" not in names


def test_no_hook_stays_on_a_graph_that_outlives_the_profile() -> None:
    """Walking a surviving graph after the profile runs none of xsp's hooks and gives the right
    gradients.
    """
    model = Net()
    losses: list[torch.Tensor] = []
    x = torch.randn(2, 4)
    prof = measured(lambda: losses.append(model(x).sum()))
    before = len(prof.spans)
    reference = torch.autograd.grad(model(x).sum(), model.first.weight)[0]
    for loss in losses:
        assert torch.equal(torch.autograd.grad(loss, model.first.weight)[0], reference)
    assert torch._C._len_torch_function_stack() == 0
    assert len(prof.spans) == before


def test_gradient_accumulators_kept_from_before_are_not_owned() -> None:
    """Hooks of the user's on parameters fire as often as they would without xsp."""
    model, fired = Net(), []
    model.first.weight.register_hook(lambda gradient: fired.append(gradient.shape))
    runs: list[int] = []

    def step(x: torch.Tensor) -> None:
        model(x).sum().backward()
        runs.append(1)

    measured(step, torch.randn(2, 4))
    assert len(fired) == len(runs)


def test_input_from_an_earlier_graph_is_the_boundary() -> None:
    """Nodes of a graph that existed before the model call belong to no layer of the model."""
    model, source = Net(), torch.randn(2, 4, requires_grad=True)

    def step(x: torch.Tensor) -> None:
        model(x).sum().backward(retain_graph=True)

    def by_keyword(x: torch.Tensor) -> None:
        model.second(input=x).sum().backward(retain_graph=True)

    outside = source.exp().sin()
    for one in (step, by_keyword):
        spans = layer_spans(measured(one, outside))
        types = set(spans.loc[spans["kind"] == "autograd", "type"])
        assert "AddmmBackward0" in types
        assert not {"ExpBackward0", "SinBackward0"} & types


def test_backward_error_that_the_step_handles() -> None:
    """A backward node that raises, and whose error the step handles, disturbs neither later layers
    nor later runs.
    """

    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise RuntimeError("no gradient today")

    model = Net(Failing.apply)
    whole = Net()

    def step(x: torch.Tensor) -> None:
        with pytest.raises(RuntimeError, match="no gradient today"):
            model(x).sum().backward()
        F.relu(whole(x))

    prof = measured(step, torch.randn(2, 4))
    assert prof.runs["unmatched"].sum() == 0
    names = forward_names(prof)
    assert names[-4:] == ["whole.first", "whole::relu", "whole.second", "step::relu"]


def test_backward_raised_to_the_user_names_the_moment() -> None:
    """An error in backward reaches the user unchanged, with a note, and leaves nothing behind."""
    calls = iter(range(1000))

    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            if next(calls) > 3:
                raise ValueError("no gradient today")
            return gradients

    with pytest.raises(ValueError, match="no gradient today") as caught:
        measured(step_of(Net(Failing.apply)), torch.randn(2, 4))
    assert str(caught.value) == "no gradient today"
    assert any("xsp" in note for note in caught.value.__notes__)
    assert torch._C._len_torch_function_stack() == 0


def test_training_step_with_optimizer() -> None:
    """A whole training step is layers forward, layers backward, and the optimizer's calls."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()

    prof = measured(step, torch.randn(2, 4))
    names = forward_names(prof)
    assert names[:4] == ["SGD.zero_grad", "first", "::relu", "second"]
    assert names[-1] == "SGD.step"
    assert prof.runs["unmatched"].sum() == 0


def test_block_that_trains_is_profiled_forward_only() -> None:
    """`with xsp.profile(model)` re-runs the model's calls; the backward pass of the block is the
    user's alone.
    """
    model = Net()
    with xsp.profile(model, **LAYERS) as prof:
        model(torch.randn(2, 4)).sum().backward()
    assert backward_names(prof) == []
    assert forward_names(prof) == ["first", "::relu", "second"]
