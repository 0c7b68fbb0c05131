"""A model as bricks are made of it: its layers, what it reads, and how it is called whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from xsp.brickwork.network import fresh
from xsp.brickwork.parts import Part, parts_of
from xsp.graphs.recording import recorded_call
from xsp.graphs.tracing import Traced, traced_call
from xsp.measuring.measurable import Measurable, measurable


@dataclass(frozen=True, eq=False)
class Model:
    """One call of a model: `work` makes it whole, `traced` has its operators. One that `stands_in`
    for a graph of layers has the graph's layers only, and means nothing as a whole.
    """

    name: str
    work: Measurable
    traced: Traced
    stands_in: bool = False

    @cached_property
    def parts(self) -> list[Part]:
        """Its layers in the order in which they run (`parts_of`)."""
        return parts_of(self.traced)

    @cached_property
    def values(self) -> Mapping[str, Tensor]:
        """Weights and inputs by the name of their node."""
        return {**self.traced.held, **self.traced.given}

    @property
    def device(self) -> str:
        """Where its first tensor is: "cuda" or "cpu"."""
        return next((each.device.type for each in self.values.values()), "cpu")

    def run(self) -> Iterator[tuple[int, Mapping[fx.Node, Any]]]:
        """Run it layer by layer: yields the place of each layer and, just before it, the values
        that it or a later one reads. At the end it yields the number of layers and what the model
        returns.

        Inputs and buffers are copies, since layers may write to them.
        """
        nodes = {node.name: node for node in self.traced.graph.nodes}
        found: dict[fx.Node, Any] = {
            nodes[name]: each if isinstance(each, nn.Parameter) else fresh(each)
            for name, each in self.values.items()
        }
        for place, part in enumerate(self.parts):
            yield place, found
            for node in part.nodes:
                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), found.__getitem__)
                found[node] = node.target(*args, **kwargs)  # type: ignore[operator] # fx types it as text too
            for node in self._last_read.get(place, ()):
                found.pop(node, None)
        yield len(self.parts), found

    @cached_property
    def _last_read(self) -> Mapping[int, list[fx.Node]]:
        """By layer, the values that nothing reads after it."""
        place_of = {node: place for place, part in enumerate(self.parts) for node in part.nodes}
        found: dict[int, list[fx.Node]] = {}
        for node in self.traced.graph.nodes:
            users = [place_of.get(user, len(self.parts)) for user in node.users]
            last = max(users, default=place_of.get(node, len(self.parts)))
            found.setdefault(last, []).append(node)
        return found

    @property
    def outputs(self) -> list[fx.Node]:
        """The nodes that the model returns, in order."""
        end = next(node for node in self.traced.graph.nodes if node.op == "output")
        return list(end.all_input_nodes)


def model_of(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
) -> Model:
    """A model with the inputs of one call.

    Raises GraphError where its operators cannot be read.
    """
    title = name or type(model).__name__
    work = Measurable(model, title, model.training, tuple(args), dict(kwargs or {}))
    return Model(title, work, _operators(model, args, kwargs, title))


def _operators(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None, title: str
) -> Traced:
    """Those of a call. One that trains would change the model, so it is read without running it;
    what a call cannot tell is read so, too, and a note says why.
    """
    if model.training:
        return traced_call(model, args, kwargs, title)
    try:
        return recorded_call(model, args, kwargs)
    except Exception as error:  # whatever the model raises: reading it may say more
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    read = traced_call(model, args, kwargs, title)
    note = f"the operators are those of a traced call, since an ordinary one tells none: {why}"
    return replace(read, notes=(note, *read.notes))


def model_of_target(returned: Any, name: str) -> Model:
    """The model that a target function returned: see `xsp profile`.

    Raises TargetError for what is not a target, GraphError for a callable without a model.
    """
    from xsp.errors import GraphError

    work = measurable(returned, name)
    if not isinstance(work.function, nn.Module):
        raise GraphError(
            f"{name!r} returns a callable, but bricks can only be made of a model: return "
            "(model, inputs)"
        )
    return model_of(work.function, work.args, work.kwargs, name=name)


def called_whole(model: Model) -> Any:
    """Call the model as its user would, without gradients unless it is trained."""
    work = model.work
    with torch.set_grad_enabled(work.grad):
        return work.function(*work.args, **work.kwargs)
