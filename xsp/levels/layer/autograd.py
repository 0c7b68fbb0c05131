"""Leading backward work to the layer that created it, through the autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch.autograd.graph import Node

from xsp.levels.layer.tensors import Located
from xsp.levels.layer.ways import Found, walk
from xsp.machine.torch_internals import BACKWARD_ENGINE, without_torch_functions
from xsp.types import BACKWARD_BASE

# A backward code says which forward call (counted by its end) created the node, and which of its
# nodes it is.
NODES_PER_CALL = 1 << 12

_BEYOND_CALLS = BACKWARD_BASE + (1 << 50)

NO_OWNER_CODE = _BEYOND_CALLS
"""Code of graph nodes that no layer of the run made."""

BUCKETS_CODE = _BEYOND_CALLS + 1
"""Code of gradient accumulators where DistributedDataParallel puts gradients into buckets there."""

AFTER_CODE = _BEYOND_CALLS + 2
"""Code of what autograd's engine does after the last node: DistributedDataParallel waits there."""

UNKNOWN_CODE = _BEYOND_CALLS + 3
"""Code of nodes of a call that the structure run did not have."""

ENGINE_CODE = BACKWARD_BASE - 1
"""Code of the stamps around a run of autograd's engine; they end the last node's interval and are
no layer.
"""

_OWNER = "xsp.owner"

Told = Callable[[Any], None]

# Gradient accumulators run right after the node that produced the gradient and rarely do more than
# keep it: watching them would double the number of hooks. What they launch is led to that node, as
# all work between two nodes is.
_ACCUMULATOR = "torch::autograd::AccumulateGrad"


def backward_code(call: int, node: int) -> int:
    """Code of the `node`-th graph node created by the `call`-th forward layer call of a run."""
    return BACKWARD_BASE + call * NODES_PER_CALL + node


def call_and_node(code: int) -> tuple[int, int]:
    """What a backward code says: the forward call, and which of its nodes."""
    return divmod(code - BACKWARD_BASE, NODES_PER_CALL)


def node_of(tensor: torch.Tensor) -> Node | None:
    """The graph node that made a tensor, None for leaves and what needs no gradient."""
    # Reading an attribute is a torch function: no mode or tensor subclass of the user's may see it.
    with without_torch_functions():
        return tensor.grad_fn


def made_by(tensors: Iterable[torch.Tensor]) -> list[Node]:
    """The graph nodes that made these tensors, in their order; leaves and what needs no gradient
    have none.
    """
    nodes = [node_of(tensor) for tensor in tensors]
    return [node for node in nodes if node is not None]


def roots_of(outputs: Iterable[Located]) -> list[tuple[Located, Node]]:
    """The outputs that a node made, each with it."""
    pairs = [(each, node_of(each.tensor)) for each in outputs]
    return [(each, node) for each, node in pairs if node is not None]


def is_accumulator(node: Node) -> bool:
    """Whether a node keeps the gradient of a leaf."""
    return node.name() == _ACCUMULATOR


def claim(node: Node, token: object) -> bool:
    """Mark a node as owned; whether no layer of this run owned it.

    `token` stands for the run: nodes can outlive a run, and an older run's mark must not count. The
    mark is kept in the node's metadata, not in a set here, because holding a node keeps its saved
    tensors alive.
    """
    # A property, which torch declares as a method.
    notes: dict[str, object] = cast("Any", node).metadata
    if notes.get(_OWNER) is token:
        return False
    notes[_OWNER] = token
    return True


def new_nodes(
    inputs: Iterable[torch.Tensor], outputs: Sequence[Located], token: object
) -> list[Found]:
    """Graph nodes between `inputs` and `outputs` that no earlier layer of this run owns; they are
    marked as owned.
    """
    roots = roots_of(outputs)
    # An in-place layer's input carries the output's node; it must not be taken for the boundary.
    boundary = set(made_by(inputs)).difference(node for _, node in roots)

    def not_new(node: Node) -> bool:
        return node in boundary or not claim(node, token) or is_accumulator(node)

    return walk(roots, not_new)[: NODES_PER_CALL - 1]


def without_owner(roots: Sequence[Located], token: object) -> tuple[list[Found], list[int]]:
    """Every node below the roots of a backward pass, and the places of those that no layer of the
    run owns; they are marked as owned.
    """
    every = walk(roots_of(roots), is_accumulator)
    return every, [place for place, each in enumerate(every) if claim(each.node, token)]


def run_inside(
    around: Callable[[Sequence[torch.Tensor]], AbstractContextManager[Told | None]],
) -> Callable[[], None]:
    """Enter `around`, given the tensors to start from, whenever autograd's engine is run, by
    `backward` or `grad`; returns what undoes this. What it gives, if anything, is told what the
    engine gave.

    Autograd hands the torch function modes that are on at this point to its threads. A hook further
    out would find the mode off: a mode's own handler, from which `backward` is called, runs without
    it.
    """
    if not BACKWARD_ENGINE.exists:
        return lambda: None
    real = BACKWARD_ENGINE.value

    def entered(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        with around(tensors) as told:
            result = real(tensors, *args, **kwargs)
            if told is not None:
                told(result)
            return result

    return BACKWARD_ENGINE.replace(entered)
