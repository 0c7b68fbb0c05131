"""One call of a PyTorch model as a list of ATen operators: by torch.export, else by tracing one
execution (torch.fx).
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from xsp.errors import GraphError
from xsp.graphs.layouts import mend_layouts
from xsp.levels.layer.tensors import tensors_in
from xsp.machine.remarks import without_remarks

EXPORT, TRACE = "torch.export", "torch.fx"

_BLOCKS = {"wrap_with_autocast": 5, "wrap_with_set_grad_enabled": 2}
"""Operators that stand for a `with` block, and how many arguments come before its inputs; the last
of these is the block's own graph."""


@dataclass(eq=False)
class ModuleCall:
    """A call of a module within that of a model: its place among all of these in the order in which
    they begin, the module's class, the nodes that it ran, those of its children too, and the calls
    inside it.
    """

    place: int
    kind: str = ""
    nodes: list[fx.Node] = field(default_factory=list)
    children: list[ModuleCall] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Traced:
    """The operators of one call in the order in which they run, without nested graphs.

    `held` are the parameters, buffers and constants that it reads, `given` the tensors that were
    passed to it, both by the name of their node. `notes` say how it was read, where not as usual;
    `calls` are the outermost calls of modules, where it was recorded.
    """

    graph: fx.Graph
    held: Mapping[str, torch.Tensor]
    given: Mapping[str, torch.Tensor]
    source: str
    notes: tuple[str, ...] = ()
    calls: tuple[ModuleCall, ...] = ()


def traced_call(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None, title: str
) -> Traced:
    """The operators of `model(*args, **kwargs)`, in-place operators as they are.

    torch.export reads the model without running it. What it cannot follow, such as a condition on
    a value, is run once and traced on the way; a note then says so.

    Raises GraphError with the reasons of both where neither works.
    """
    given = dict(kwargs or {})
    try:
        return _exported(model, tuple(args), given)
    except Exception as error:  # whatever export or the model raises; tracing may still work
        refused = _first_line(error)
    note = f"torch.export refused ({refused}); the graph is that of one execution"
    try:
        return _executed(model, tuple(args), given, note)
    except Exception as error:
        raise GraphError(
            f"{title} cannot be read as a graph: torch.export says {refused!r}, and running it "
            f"under torch.fx raised {_first_line(error)!r}; give inputs that the model takes"
        ) from error


class _Returning(nn.Module):
    """A model that returns the tensors of its output only, so that any output can be traced."""

    def __init__(self, target: nn.Module) -> None:
        super().__init__()
        self.target = target
        self.training = target.training

    def forward(self, args: Any, kwargs: Any) -> list[torch.Tensor]:
        return tensors_in(self.target(*args, **kwargs))


def _exported(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    from xsp.machine.torch_internals import leaves_of

    with _quiet(), torch.no_grad():
        program = torch.export.export(_Returning(model), (args, kwargs), strict=False)
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    known: dict[str, Any] = {**program.constants, **program.state_dict}
    held = {node: known[name] for node, name in names.items()}
    passed = leaves_of((args, kwargs))
    given = {
        str(node): value
        for node, value in zip(signature.user_inputs, passed, strict=False)
        if isinstance(value, torch.Tensor)
    }
    _inline_blocks(program.graph, program.graph_module)
    note = mend_layouts(program.graph)
    return Traced(program.graph, held, given, EXPORT, (note,) if note else ())


def _executed(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], note: str) -> Traced:
    from torch.fx.experimental.proxy_tensor import make_fx

    from xsp.machine.torch_internals import flattened, unflattened

    flat, spec = flattened((args, kwargs))
    places = [place for place, each in enumerate(flat) if isinstance(each, torch.Tensor)]
    wrapped = _Returning(model)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.target = wrapped.target

        def forward(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
            filled = list(flat)
            for place, tensor in zip(places, tensors, strict=True):
                filled[place] = tensor
            own_args, own_kwargs = unflattened(filled, spec)
            return tensors_in(self.target(*own_args, **own_kwargs))

    with _quiet(), torch.no_grad():
        made = make_fx(
            Flat(),
            pre_dispatch=True,
            tracing_mode="real",
            record_module_stack=True,
            _error_on_data_dependent_ops=False,
        )(*(flat[place] for place in places))
    leaves = [node for node in made.graph.nodes if node.op == "placeholder"]
    given = {node.name: flat[place] for node, place in zip(leaves, places, strict=True)}
    held = {
        node.name: _attribute(made, str(node.target))
        for node in made.graph.nodes
        if node.op == "get_attr"
    }
    return Traced(made.graph, held, given, TRACE, (note,))


def _attribute(module: nn.Module, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _inline_blocks(graph: fx.Graph, owner: nn.Module) -> None:
    """Put the operators of blocks that change nothing for them (gradients on or off, autocast off)
    in place of the block.
    """
    for node in list(graph.nodes):
        kind = getattr(node.target, "__name__", "")
        if node.op != "call_function" or kind not in _BLOCKS:
            continue
        before = _BLOCKS[kind]
        if kind == "wrap_with_autocast" and node.args[2]:
            continue
        inner = _attribute(owner, str(node.args[before - 1].target)).graph
        _inline(graph, node, inner, node.args[before:])
    graph.eliminate_dead_code(lambda node: node.op not in {"get_attr"})


def _inline(graph: fx.Graph, node: fx.Node, inner: fx.Graph, inputs: Sequence[Any]) -> None:
    leaves = [each for each in inner.nodes if each.op == "placeholder"]
    replaced: dict[fx.Node, Any] = dict(zip(leaves, inputs, strict=True))
    with graph.inserting_before(node):
        outputs: Any = graph.graph_copy(inner, replaced)
    for user in list(node.users):
        if user.target is operator.getitem:
            user.replace_all_uses_with(outputs[user.args[1]])
            graph.erase_node(user)
    if not node.users:
        graph.erase_node(node)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export speaks of attributes and guards that do not matter for the shapes."""
    with without_remarks("torch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]
