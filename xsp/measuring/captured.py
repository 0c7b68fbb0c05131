"""Runs of what a target's CUDA graphs were captured from, so that kernels of replays can be led to
layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from xsp.analysis.spans.assembly import assemble, assemble_runs
from xsp.analysis.spans.graph_layers import Captured
from xsp.analysis.spans.outside import NO_LAYER_KIND
from xsp.errors import TargetError
from xsp.levels.kernel.cupti import CuptiLibrary
from xsp.levels.layer.naming import is_leaf
from xsp.levels.layer.tensors import tensors_in
from xsp.machine.ambient import Ambient
from xsp.machine.torch_internals import GraphedModule, graphed_module
from xsp.measuring.deadline import Deadline
from xsp.measuring.doubts_about_graphs import missing_levels
from xsp.measuring.executor import Executor
from xsp.measuring.ladder import Ladder, climb, rungs_for
from xsp.measuring.options import Options
from xsp.measuring.preparation import Prepared, prepare
from xsp.measuring.progress import Phases
from xsp.measuring.recaptured import Recapture
from xsp.measuring.stopping import after_rounds
from xsp.measuring.target import Call, Target, target_of
from xsp.measuring.vocabulary import words_of
from xsp.types import Level, Tables


def with_captured(prepared: Prepared, options: Options, shown: Phases) -> Prepared:
    """The same with what its graphs hold: the functions of `captured_from`, and modules that went
    through `torch.cuda.make_graphed_callables`, where layers and kernels are traced.

    Functions run eagerly; where a graph launches something else than that, they are captured once
    more. What is called stays changed, but for what is put back before every run of the target.
    Raises what the functions raise.
    """
    if missing_levels(prepared.traced):
        return prepared
    once = _Once(options, prepared, shown)
    given = [
        Captured(once.tables(target_of(function, (), {})), graph_ids([graph]))
        for graph, function in options.captured_from
    ]
    modules: list[Captured] = []
    for module, name in prepared.modules.items():
        if (graphed := graphed_module(module)) is not None:
            modules += _of_module(graphed, name, once)
    known = replace(prepared, captured=(*given, *modules))
    if not given or not _launches_otherwise(known):
        return known
    functions = [function for _, function in options.captured_from]
    again = [
        replace(each, tables=once.recaptured(function) or each.tables)
        for function, each in zip(functions, given, strict=True)
    ]
    return replace(prepared, captured=(*again, *modules))


def _launches_otherwise(prepared: Prepared) -> bool:
    """Whether a graph launches something else than what it is known to hold, on any rank."""
    executor, tracers = prepared.executor, prepared.tracers
    ladder = Ladder(rungs_for(prepared.traced)[-1:])
    runs, _ = climb(executor, ladder, tracers, after_rounds(1))
    found = assemble_runs(runs, words_of(executor.target, prepared))
    return executor.ranks.any(any(not each.ambiguous for each in found.unled))


@dataclass(frozen=True)
class _Once:
    """Runs programs once with the levels that matter, untimed."""

    options: Options
    known: Prepared
    shown: Phases

    def tables(self, target: Target) -> Tables:
        """The tables of a run of this target."""
        prepared = self._prepared(target)
        ladder = Ladder(rungs_for(prepared.traced)[-1:])
        runs, _ = climb(prepared.executor, ladder, prepared.tracers, after_rounds(1))
        return assemble(runs, words_of(target, prepared))

    def recaptured(self, function: Callable[..., Any]) -> Tables | None:
        """The tables of a run in which the function is captured; None where that cannot be."""
        recapture = Recapture(function)
        try:
            return recapture.tables(self._prepared(target_of(recapture.function, (), {})))
        except (RuntimeError, TargetError):
            return None

    def _prepared(self, target: Target) -> Prepared:
        accept, ranks = self.options.accept_changed, self.known.executor.ranks
        executor = Executor(target, accept_changed=accept, ranks=ranks)
        levels = (Level.MODEL, Level.LAYER, Level.KERNEL)
        once = replace(self.options, levels=levels, iterations=1, stop=None, warmup=1)
        return prepare(executor, once, Deadline.of(once), self.shown)


def _of_module(graphed: GraphedModule, name: str, once: _Once) -> list[Captured]:
    """A module's forward and backward pass as they were captured, nothing where they fail without a
    graph: its kernels then stay with the launcher, and that is said.
    """
    module, ambient = graphed.module, Ambient.current()
    ambient = replace(ambient, grad=graphed.is_differentiated, inference=False)
    call = Call(partial(as_captured, graphed), (), {}, ambient)
    try:
        with without_graph(graphed):
            tables = once.tables(Target(type(module).__name__, (call,), module))
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
