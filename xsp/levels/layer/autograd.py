"""Leading backward work to the layer that created it, through the autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch.autograd.graph import Node

from xsp.machine.torch_internals import BACKWARD_ENGINE, without_torch_functions
from xsp.types import BACKWARD_BASE

# A backward code says which forward call (counted by its end) created the node, and which of its
# nodes it is.
_NODES_PER_CALL = 1 << 12

ENGINE_CODE = BACKWARD_BASE - 1
"""Code of the stamps around a run of autograd's engine; they end the last node's interval and are
no layer.
"""

UNKNOWN_NODE = _NODES_PER_CALL - 1
"""Number of a node that the structure run did not have."""

_OWNER = "xsp.owner"

# Gradient accumulators run right after the node that produced the gradient and rarely do more than
# keep it: watching them would double the number of hooks. What they launch is led to that node, as
# all work between two nodes is.
_ACCUMULATOR = "torch::autograd::AccumulateGrad"


def backward_code(call: int, node: int) -> int:
    """Code of the `node`-th graph node created by the `call`-th forward layer call of a run."""
    return BACKWARD_BASE + call * _NODES_PER_CALL + node


def call_and_node(code: int) -> tuple[int, int]:
    """What a backward code says: the forward call, and which of its nodes."""
    return divmod(code - BACKWARD_BASE, _NODES_PER_CALL)


def made_by(tensors: Iterable[torch.Tensor]) -> list[Node]:
    """The graph nodes that made these tensors, in their order; leaves and what needs no gradient
    have none.
    """
    # Reading an attribute is a torch function: no mode or tensor subclass of the user's may see it.
    with without_torch_functions():
        nodes = [tensor.grad_fn for tensor in tensors]
    return [node for node in nodes if node is not None]


def new_roots(outputs: Iterable[torch.Tensor], token: object) -> list[Node]:
    """Of `new_nodes` only those of the outputs themselves, in their order, without walking the
    graph.

    Each node that Python touches for the first time costs some us, each hook more: on one host a
    linear layer's four nodes cost 50 us, its output's alone 20.
    """
    return [node for node in made_by(outputs) if _claimed(node, token)]


def _claimed(node: Node, token: object) -> bool:
    """Mark a node as owned; whether no layer of this run owned it."""
    notes: dict[str, object] = cast(
        "Any", node
    ).metadata  # a property, which torch declares as a method
    if notes.get(_OWNER) is token:
        return False
    notes[_OWNER] = token
    return True


def new_nodes(
    inputs: Iterable[torch.Tensor], outputs: Iterable[torch.Tensor], token: object
) -> list[Node]:
    """Graph nodes between `inputs` and `outputs` that no earlier layer of this run owns; they are
    marked as owned.

    `token` stands for the run: nodes can outlive a run, and an older run's mark must not count. The
    mark is kept in the node's metadata, not in a set here, because holding a node keeps its saved
    tensors alive.
    """
    roots = made_by(outputs)
    # An in-place layer's input carries the output's node; it must not be taken for the boundary.
    boundary = set(made_by(inputs)).difference(roots)
    found: list[Node] = []
    pending: list[Node | None] = list(reversed(roots))
    while pending:
        node = pending.pop()
        if node is None or node in boundary:
            continue
        if not _claimed(node, token) or node.name() == _ACCUMULATOR:
            continue
        found.append(node)
        pending.extend(next_node for next_node, _ in reversed(node.next_functions))
    return found[:UNKNOWN_NODE]


def run_inside(around: Callable[[], AbstractContextManager[None]]) -> Callable[[], None]:
    """Enter `around` whenever autograd's engine is run, by `backward` or `grad`; returns what
    undoes this.

    Autograd hands the torch function modes that are on at this point to its threads. A hook further
    out would find the mode off: a mode's own handler, from which `backward` is called, runs without
    it.
    """
    if not BACKWARD_ENGINE.exists:
        return lambda: None
    real = BACKWARD_ENGINE.value

    def entered(*args: Any, **kwargs: Any) -> Any:
        with around():
            return real(*args, **kwargs)

    return BACKWARD_ENGINE.replace(entered)
