"""The untimed structure run: what runs, in which order, under which name and with which shapes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node

from xsp.levels.layer import parts
from xsp.levels.layer.arguments import function_called, module_called
from xsp.levels.layer.autograd import (
    AFTER_CODE,
    BUCKETS_CODE,
    ENGINE_CODE,
    NO_OWNER_CODE,
    backward_code,
    run_inside,
    without_owner,
)
from xsp.levels.layer.backward import BackwardOrder
from xsp.levels.layer.custom_functions import functions_as_layers
from xsp.levels.layer.discovery import Discovered
from xsp.levels.layer.distributed import AFTER, BUCKETS, bucketed_parameters, collectives_as_layers
from xsp.levels.layer.entry_points import entry_point, step_in, step_in_by_hooks
from xsp.levels.layer.function_mode import Codes, FunctionalMode
from xsp.levels.layer.functional import BACKWARD_ENTRIES, CompiledFunction, layer_type
from xsp.levels.layer.made_during import EndedCall, MadeDuring
from xsp.levels.layer.naming import is_leaf, qualified_names
from xsp.levels.layer.parts import Part
from xsp.levels.layer.ranges import DEFAULT_DOMAIN, RangeRecorder
from xsp.levels.layer.source import calling_line
from xsp.levels.layer.structure import LayerRow, ModuleCall, ModuleRow, Structure
from xsp.levels.layer.tensors import describe_tensors, locate_tensors, tensors_in
from xsp.levels.layer.ways import Plan, plan_for
from xsp.machine.torch_internals import nodes_made, without_torch_functions
from xsp.types import Columns

NO_OWNER = "(no owner)"
"""Name of the row of backward work that no layer of the run made."""


class StructureRecorder:
    """Records one execution of the target; use as a context manager around it.

    `outside` is what functional calls outside every module are named after, `variables` what
    modules are that are no others' (`naming.qualified_names`). With
    `ranges_are_layers` the user's NVTX ranges are layers, and functional calls inside them are not.
    """

    def __init__(
        self,
        discovered: Discovered,
        outside: str = "",
        *,
        variables: Mapping[nn.Module, str] | None = None,
        ranges_are_layers: bool = False,
    ) -> None:
        self._outside = outside
        self._called = list(discovered.calls)
        self._names = qualified_names(discovered.roots, variables)
        codes = Codes(ranges_are_layers=ranges_are_layers)
        codes.transparent = discovered.containers.found
        codes.bucketed = bucketed_parameters(self._called)
        self.structure = Structure(codes)
        self._local = threading.local()
        self._seen_outside: Counter[str] = Counter()
        self._seen_inside: dict[int, Counter[str]] = {}
        self._token = object()
        self._open: dict[int, list[tuple[int, int]]] = {}
        """By thread, the rows of the calls that have begun, with the nodes made before each."""
        self._made = MadeDuring()
        self._abandoned: list[int] = []
        self._calls = 0
        self._ended: list[int] = []
        self._engines = 0
        self._engine_plans: list[Plan | None] = []
        self._shared_rows: set[int] = set()
        self._backward = BackwardOrder()
        self._exit = ExitStack()
        self._ranges = RangeRecorder(self._range_begins, self._range_ends, self._range_abandoned)
        self._mode = FunctionalMode(
            self.structure.codes, self._function_begins, self._function_ends
        )

    def __enter__(self) -> StructureRecorder:
        with self._exit:
            for module in self._called:
                name = self._names.setdefault(module, type(module).__name__)
                leaf = is_leaf(module)
                self.structure.modules.append(
                    ModuleRow(name, type(module).__name__, _parameter_bytes(module), leaf)
                )
                self._hook_leaf(module) if leaf else self._hook_container(module, name)
            self._exit.callback(self._stop_backward)
            self._exit.callback(run_inside(self._engine))
            self._exit.callback(functions_as_layers(self._mode, self.structure.codes))
            self._exit.callback(collectives_as_layers(self._mode, self.structure.codes))
            self._exit.enter_context(self._mode)
            self._exit.callback(parts.listen(self._part_begins, self._part_ends))
            if self.structure.codes.ranges_are_layers:
                self._exit.callback(self._ranges.watch())
            self._exit = self._exit.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._exit.close()
        if kind is None:
            self._finish_backward()

    def new_run(self) -> None:
        """Count calls from zero, as the timed tracer does."""
        self._token, self._calls = object(), 0
        self._ended.clear()
        self._engine_plans.clear()
        self._shared_rows.clear()
        self._backward.stop()
        self._backward = BackwardOrder()
        self._made = MadeDuring()

    @contextmanager
    def _engine(self, roots: Sequence[torch.Tensor]) -> Iterator[None]:
        self._watch_those_that_no_output_leads_to(roots)
        if self.structure.codes.bucketed:
            self._add_once(BUCKETS_CODE, BUCKETS)
            self._add_once(AFTER_CODE, AFTER)
        self._engines += 1
        try:
            with self._mode.back_on(), self._backward.engine():
                yield
        finally:
            self._engines -= 1

    def _watch_those_that_no_output_leads_to(self, roots: Sequence[torch.Tensor]) -> None:
        found, places = without_owner(locate_tensors(roots), self._token)
        self._made.graph_made_on(self._backward.makes_graph)
        nodes = [each.node for each in found]
        makers = self._made.makers(nodes, places)
        codes = {place: self._late_row(call, nodes[place]) for place, call in makers.items()}
        known = {place: 2 * code for place, code in codes.items() if code is not None}
        others = dict.fromkeys((place for place in places if place not in known), 2 * NO_OWNER_CODE)
        self._backward.watch_others(found, others)
        plan = plan_for([each.trail for each in found], known | others)
        self._engine_plans.append(plan or None)
        if others:
            self._add_once(NO_OWNER_CODE, NO_OWNER)

    def _late_row(self, maker: EndedCall, node: Node) -> int | None:
        """A row for a node of a call to which its outputs do not lead; returns the node's code,
        None where the call has too many.
        """
        number = self._backward.watch_late(maker.call, node)
        if number is None:
            return None
        code = backward_code(maker.call, number)
        self._add(_backward_row(self.structure.layers[maker.row], maker.row, code, node.name()))
        return code

    def _add_once(self, code: int, name: str) -> None:
        """A row for all backward work of a kind that no layer owns."""
        if code not in self._shared_rows:
            self._shared_rows.add(code)
            self._add(_row_without_owner(code, name))

    def _stop_backward(self) -> None:
        self._backward.stop()

    def _finish_backward(self) -> None:
        roots = self._backward.sufficient()
        codes = self.structure.codes
        codes.roots.update(roots)
        for call, numbers in roots.items():
            for number in numbers:
                self.structure.node_types[backward_code(call, number)] = self._backward.type_of(
                    call, number
                )
        plans = self._backward.plans(roots)
        for call, code in enumerate(self._ended):
            codes.plans.setdefault(code, []).append(plans.get(call))
        codes.plans[ENGINE_CODE] = self._engine_plans

    def _hook_container(self, module: nn.Module, name: str) -> None:
        def before(_module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            self._stack().append((name, Counter()))
            self.structure.module_calls[name] += 1
            shapes, _ = describe_tensors((*args, *kwargs.values()))
            self._open_modules().append(ModuleCall(name, len(self.structure.layers), -1, shapes))

        def after(*_: Any) -> None:
            self._stack().pop()
            ended = replace(self._open_modules().pop(), last=len(self.structure.layers))
            self.structure.calls_of_modules.append(ended)

        self._register(module, before, after)

    def _hook_leaf(self, module: nn.Module) -> None:
        code = self.structure.codes.of_module(module)

        def before(_module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            self._mode.switch.suspend()
            self.structure.module_calls[self._names[module]] += 1
            called = module_called(module, args, kwargs)
            row = LayerRow(
                code,
                self._names[module],
                type(module).__name__,
                "module",
                self._names[module].rpartition(".")[0],
                "forward",
                -1,
                called.shapes,
                called.dtypes,
                [],
                [],
                _parameter_bytes(module),
                _weight_shape(module),
                called.arguments,
            )
            self._begin(row)

        def after(_module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            self._end((*args, *kwargs.values()), output)
            self._mode.switch.resume()

        self._register(module, before, after)

    def _register(
        self, module: nn.Module, before: Callable[..., None], after: Callable[..., None]
    ) -> None:
        def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
            def recorded(*args: Any, **kwargs: Any) -> Any:
                before(module, args, kwargs)
                output = None
                try:
                    output = call(*args, **kwargs)
                finally:
                    after(module, args, kwargs, output)
                return output

            return recorded

        attribute = entry_point(module)
        if attribute is None:
            self._exit.callback(step_in_by_hooks(module, before, after))
        else:
            self._exit.callback(step_in(module, attribute, wrap))

    def _stack(self) -> list[tuple[str, Counter[str]]]:
        if not hasattr(self._local, "modules"):
            self._local.modules = []
        stack: list[tuple[str, Counter[str]]] = self._local.modules
        return stack

    def _open_modules(self) -> list[ModuleCall]:
        if not hasattr(self._local, "calls"):
            self._local.calls = []
        calls: list[ModuleCall] = self._local.calls
        return calls

    def _place(self) -> tuple[str, str, Counter[str]]:
        """Module that a functional call is made in, what the call is named after, and the names
        given there.
        """
        leaf = self._open_leaf()
        if leaf is not None:
            row = self.structure.layers[leaf]
            return row.module, row.name, self._seen_inside.setdefault(leaf, Counter())
        stack = self._stack()
        if stack:
            name, seen = stack[-1]
            return name, name, seen
        return "", self._outside, self._seen_outside

    def _open_leaf(self) -> int | None:
        """Row of the leaf module whose call is the innermost on this thread: collectives are layers
        inside it too.
        """
        opened = self._open.get(threading.get_ident())
        row = opened[-1][0] if opened else None
        return row if row is not None and self.structure.layers[row].kind == "module" else None

    def _function_begins(
        self,
        code: int,
        function: Callable[..., Any] | CompiledFunction,
        args: Any,
        kwargs: Mapping[str, Any],
    ) -> None:
        module, place, seen = self._place()
        kind = layer_type(function)
        seen[kind] += 1
        name = f"{place}::{kind}" if seen[kind] == 1 else f"{place}::{kind}_{seen[kind] - 1}"
        phase = "backward" if function in BACKWARD_ENTRIES or self._in_backward() else "forward"
        called = function_called(function, args, kwargs)
        self._begin(
            LayerRow(
                code,
                name,
                kind,
                "function",
                module,
                phase,
                -1,
                called.shapes,
                called.dtypes,
                [],
                [],
                0,
                arguments=called.arguments,
            )
        )

    def _in_backward(self) -> bool:
        """Whether what is called here belongs to a backward pass: hooks do, what a checkpoint
        recomputes does not. That is recomputed with gradients on.
        """
        return self._engines > 0 and not self._stack() and not torch.is_grad_enabled()

    def _function_ends(self, _code: int, function: Any, args: Any, result: Any) -> None:
        # Some releases of torch show what compiled code returned, others do not: the graph of it is
        # found in the same way in all (`made_during.py`).
        self._end(args, result, leads_to_nodes=not isinstance(function, CompiledFunction))

    def _range_begins(self, name: str, domain: str) -> None:
        self._mode.switch.suspend()
        module, _, _ = self._place()
        code = self.structure.codes.of_range(name, domain)
        full = name if domain == DEFAULT_DOMAIN else f"{domain}:{name}"
        self._begin(
            LayerRow(code, full, "range", "range", module, "forward", -1, [], [], [], [], 0)
        )

    def _range_ends(self, _name: str, _domain: str) -> None:
        self._end((), None)
        self._mode.switch.resume()

    def _part_begins(self, part: Part) -> None:
        self._mode.switch.mute()
        code = self.structure.codes.of_range(part.name, parts.DOMAIN)
        row = LayerRow(code, part.name, part.type, "range", "", "forward", -1, [], [], [], [], 0)
        self._begin(row)

    def _part_ends(self, _part: Part) -> None:
        self._end((), None)
        self._mode.switch.unmute()

    def within(self, calls: Columns) -> Structure:
        """What the run consisted of inside its model calls (MODEL_CALLS)."""
        return self.structure.within(calls, self._abandoned)

    def _range_abandoned(self) -> None:
        row, _ = self._open[threading.get_ident()].pop()
        self._abandoned.append(row)
        self._mode.switch.resume()

    def _begin(self, row: LayerRow) -> None:
        begun = len(self.structure.layers), nodes_made()
        self._open.setdefault(threading.get_ident(), []).append(begun)
        self._add(replace(row, source=calling_line()))

    def _add(self, row: LayerRow) -> None:
        self.structure.layers.append(row)
        self.structure.starts_ns.append(time.perf_counter_ns())

    def _end(self, inputs: Any, outputs: Any, *, leads_to_nodes: bool = True) -> None:
        index, first_node = self._open[threading.get_ident()].pop()
        given = tensors_in(outputs) or [each.tensor for each in locate_tensors(outputs)]
        shapes, dtypes = describe_tensors(given)
        row = self.structure.layers[index]
        row.output_shapes.extend(shapes)
        row.output_dtypes.extend(dtypes)
        call, self._calls = self._calls, self._calls + 1
        self._ended.append(row.code)
        if not torch.is_grad_enabled():
            return
        self._made.ended(call, index, first_node)
        if not leads_to_nodes:
            return
        for number, node in enumerate(self._backward.watch(call, inputs, outputs, self._token)):
            self._add(_backward_row(row, index, backward_code(call, number), node))


def _backward_row(forward: LayerRow, index: int, code: int, node: str) -> LayerRow:
    return LayerRow(
        code,
        forward.name,
        node,
        "autograd",
        forward.module,
        "backward",
        index,
        forward.output_shapes,
        forward.output_dtypes,
        forward.input_shapes,
        forward.input_dtypes,
        0,
        source=forward.source,
    )


def _row_without_owner(code: int, name: str) -> LayerRow:
    return LayerRow(code, name, "", "autograd", "", "backward", -1, [], [], [], [], 0)


def _weight_shape(module: nn.Module) -> list[int]:
    """Shape of the tensor called `weight`, empty without one; weight normalisation makes it an
    attribute.
    """
    own = dict(module.named_parameters(recurse=False))
    weight = own.get("weight", vars(module).get("weight"))
    with without_torch_functions():
        return (
            list(weight.shape) if isinstance(weight, torch.Tensor) and not weight.is_nested else []
        )


def _parameter_bytes(module: nn.Module) -> int:
    with without_torch_functions():
        return sum(
            parameter.numel() * parameter.element_size() for parameter in module.parameters()
        )
