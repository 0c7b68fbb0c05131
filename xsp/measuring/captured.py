"""Eager runs of what a target's CUDA graphs were captured from, so that kernels of replays can be
led to layers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from xsp.analysis.spans.ancestors import layer_spans
from xsp.analysis.spans.assembly import Assembled, assemble
from xsp.analysis.spans.graph_layers import Captured, Owner, Unled
from xsp.analysis.spans.outside import NO_LAYER_KIND, stands_for_outside
from xsp.doubts import Doubt, Slug
from xsp.errors import TargetError
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.levels.layer.naming import is_leaf
from xsp.levels.layer.tensors import tensors_in
from xsp.machine.torch_internals import GraphedModule, graphed_module
from xsp.measuring.deadline import Deadline
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import Ladder, climb, rungs_for
from xsp.measuring.options import Options
from xsp.measuring.preparation import Prepared, prepare
from xsp.measuring.progress import Phases
from xsp.measuring.stopping import after_rounds
from xsp.measuring.target import Ambient, Call, Target, target_of
from xsp.measuring.vocabulary import words_of
from xsp.types import Level, Tables

_NEEDED = (Level.LAYER, Level.KERNEL)


def with_captured(prepared: Prepared, options: Options, shown: Phases) -> Prepared:
    """The same with what its graphs hold: the functions of `captured_from`, and modules that went
    through `torch.cuda.make_graphed_callables`, where layers and kernels are traced.

    What is called stays changed, but for what is put back before every run of the target. Raises
    what the functions raise.
    """
    if _missing(prepared.traced):
        return prepared
    eager = _Eager(options, prepared, shown)
    found = [
        Captured(eager.tables(target_of(function, (), {})), graph_ids([graph]))
        for graph, function in options.captured_from
    ]
    for module, name in prepared.modules.items():
        if (graphed := graphed_module(module)) is not None:
            found += _of_module(graphed, name, eager)
    return replace(prepared, captured=tuple(found))


@dataclass(frozen=True)
class _Eager:
    """Runs programs once at all levels that matter, untimed."""

    options: Options
    known: Prepared
    shown: Phases

    def tables(self, target: Target) -> Tables:
        """The tables of a run of this target."""
        accept, ranks = self.options.accept_changed, self.known.executor.ranks
        executor = Executor(target, accept_changed=accept, ranks=ranks)
        levels = (Level.MODEL, *_NEEDED)
        once = replace(self.options, levels=levels, iterations=1, stop=None, warmup=1)
        prepared = prepare(executor, once, Deadline.of(once), self.shown)
        ladder = Ladder(rungs_for(prepared.traced)[-1:])
        runs, _ = climb(executor, ladder, prepared.tracers, after_rounds(1))
        return assemble(runs, words_of(target, prepared))


def _of_module(graphed: GraphedModule, name: str, eager: _Eager) -> list[Captured]:
    """A module's forward and backward pass as they were captured, nothing where they fail without a
    graph: its kernels then stay with the launcher, and that is said.
    """
    module, ambient = graphed.module, Ambient.current()
    ambient = replace(ambient, grad=graphed.is_differentiated, inference=False)
    call = Call(partial(as_captured, graphed), (), {}, ambient)
    try:
        with without_graph(graphed):
            tables = eager.tables(Target(type(module).__name__, (call,), module))
    except (RuntimeError, TypeError, ValueError, TargetError):
        return []
    return [Captured(named_below(tables, module, name), graph_ids(graphed.graphs))]


@contextmanager
def without_graph(graphed: GraphedModule) -> Iterator[None]:
    """A block in which the module's own forward runs instead of the graph."""
    module, given = graphed.module, vars(graphed.module)["forward"]
    with ExitStack() as undo:
        undo.callback(setattr, module, "forward", given)
        module.forward = graphed.forward
        yield


def as_captured(graphed: GraphedModule) -> None:
    """Do what `torch.cuda.make_graphed_callables` captured: forward, and gradients of inputs and
    parameters, which are not accumulated.
    """
    outputs = graphed.module(*graphed.inputs)
    differentiated = [each for each in tensors_in(outputs) if each.requires_grad]
    every = (*graphed.inputs, *graphed.parameters)
    if differentiated:
        torch.autograd.grad(
            differentiated,
            [each for each in every if each.requires_grad],
            grad_outputs=graphed.output_gradients,
            only_inputs=True,
            allow_unused=True,
        )


def named_below(tables: Tables, module: nn.Module, name: str) -> Tables:
    """Tables of a run of a module, whose layers have their names in it, with those that they have
    in the program, where the module is called `name`.
    """
    # A module without children is one layer, which is in the module around it.
    own, around = (
        (type(module).__name__, name.rpartition(".")[0]) if is_leaf(module) else ("", name)
    )

    def full(inner: str) -> str:
        inner = inner.removeprefix(own)
        return f"{name}.{inner}" if name and inner and not inner.startswith("::") else name + inner

    layers, modules = tables["layers"], tables["modules"]
    is_layer = layers["kind"] != NO_LAYER_KIND
    renamed = {
        "name": layers["name"].map(full).where(is_layer, layers["name"]),
        "module": layers["module"].map(lambda inner: full(inner) if inner else around),
    }
    renamed["module"] = renamed["module"].where(is_layer, "")
    return {
        **tables,
        "layers": layers.assign(**renamed),
        "modules": modules.assign(name=modules["name"].map(full)),
    }


def graph_ids(graphs: Iterable[Any]) -> tuple[int, ...]:
    """CUPTI's ids of those of these graphs that were instantiated; none where this release of torch
    does not give their handles.
    """
    found = []
    for graph in graphs:
        with suppress(AttributeError, RuntimeError):
            executable = graph.raw_cuda_graph_exec()
            found.append(CuptiLibrary.loaded().graph_id(executable))
    return tuple(found)


def about_graphs_of(found: Assembled, prepared: Prepared, options: Options) -> list[Doubt]:
    """If kernels of a target's CUDA graphs belong to no layer that was captured, where it was said
    what was captured or torch knows: how many, and why.
    """
    missing = _missing(prepared.traced)
    if options.captured_from and missing:
        return [Doubt.of(Slug.GRAPH_KERNELS, activities=0, missing=missing)]
    known = bool(options.captured_from) or any(map(graphed_module, prepared.modules))
    return about_graphs(found, in_layers_too=known)


def about_graphs(found: Assembled, *, in_layers_too: bool = False) -> list[Doubt]:
    """If kernels of CUDA graphs belong to no layer at all, or with `in_layers_too` to the layer
    that launched the graph, as those of compiled code do: how many, and why.
    """
    activities = _unled_activities(found.tables, in_layers_too)
    if not activities:
        return []
    facts = _difference(found.unled[0]) if found.unled else {}
    return [Doubt.of(Slug.GRAPH_KERNELS, activities=activities, **facts)]


def _missing(traced: Collection[Level]) -> list[str]:
    return [level.name for level in _NEEDED if level not in traced]


def _unled_activities(tables: Tables, in_layers_too: bool) -> int:
    """In a run, of the median of the runs that have any."""
    if "graph_nodes" not in tables:
        return 0
    nodes, spans = tables["graph_nodes"], tables["spans"]
    unknown = nodes.loc[nodes["owner"] == Owner.UNKNOWN.value, "span"].to_numpy()
    above = layer_spans(spans, unknown)
    level, detail = (spans[name].to_numpy()[above] for name in ("level", "detail"))
    in_layer = level == Level.LAYER
    real = ~stands_for_outside(tables["layers"])
    in_real_layer = in_layer & real[np.where(in_layer, detail, 0)]
    counted = unknown[~in_real_layer | in_layers_too]
    counts = np.bincount(spans["run"].to_numpy()[counted])
    return int(np.median(counts[counts > 0])) if len(counted) else 0


def _difference(unled: Unled) -> dict[str, Any]:
    if unled.ambiguous:
        return {"size": unled.kernels}
    facts = {"place": unled.place, "expected": unled.expected, "found": unled.found}
    return {"size": unled.kernels, **facts}
