"""The untimed structure run: what runs, in which order, under which name and with which shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from xsp.levels.layer import communications, parts
from xsp.levels.layer.arguments import function_called
from xsp.levels.layer.autograd import Told, run_inside
from xsp.levels.layer.backward_rows import BackwardRows
from xsp.levels.layer.bindings import can_be_followed, expected_calls
from xsp.levels.layer.call_rows import CallRows
from xsp.levels.layer.custom_functions import functions_as_layers
from xsp.levels.layer.descriptions import Descriptions
from xsp.levels.layer.discovery import Discovered
from xsp.levels.layer.distributed import (
    bucketed_parameters,
    collectives_as_layers,
    is_distributed,
)
from xsp.levels.layer.entry_points import entry_point, step_in, step_in_by_hooks
from xsp.levels.layer.function_mode import Codes, FunctionalMode
from xsp.levels.layer.functional import BACKWARD_ENTRIES, CompiledFunction, layer_type
from xsp.levels.layer.layer_rows import LayerRow
from xsp.levels.layer.mode_switch import OffInParts
from xsp.levels.layer.module_rows import Parameters, leaf_call_row, module_row
from xsp.levels.layer.naming import is_leaf, qualified_names
from xsp.levels.layer.parts import Part
from xsp.levels.layer.places import Place, Places
from xsp.levels.layer.ranges import DEFAULT_DOMAIN, NO_DOMAIN, RangeRecorder
from xsp.levels.layer.recorded_mode import RecordedMode
from xsp.levels.layer.sent_rows import SentRows
from xsp.levels.layer.structure import ModuleCall, Structure
from xsp.levels.layer.tensors import describe_tensors
from xsp.levels.layer.training_parts import TrainingParts
from xsp.machine.torch_internals import own_parameters
from xsp.types import Columns


class StructureRecorder:
    """Records one execution of the target; use as a context manager around it.

    `outside` is what functional calls outside every module are named after, `variables` what
    modules are that are no others' (`naming.qualified_names`). With
    `ranges_are_layers` the user's own ranges are layers, and functional calls inside them are not.
    """

    def __init__(
        self,
        discovered: Discovered,
        outside: str = "",
        *,
        variables: Mapping[nn.Module, str] | None = None,
        ranges_are_layers: bool = False,
    ) -> None:
        self._modules = list(discovered.calls)
        self.names = qualified_names(discovered.roots, variables)
        """Of all modules that were called, and of those below them."""
        codes = Codes(ranges_are_layers=ranges_are_layers)
        codes.transparent = discovered.containers.found
        codes.bucketed = bucketed_parameters(self._modules)
        self.structure = Structure(codes)
        self._places = Places(outside)
        self._backward = BackwardRows(self.structure)
        self._descriptions = Descriptions()
        self._calls = CallRows(self.structure, self._backward, self._descriptions)
        self._sent = SentRows(self.structure, self._calls, self._backward)
        self._exit = ExitStack()
        self._ranges = RangeRecorder(self._range_begins, self._range_ends, self._range_abandoned)
        self._mode = self._functional_mode(codes)
        self._off_in_parts = OffInParts(self._mode.switch)
        self._training = TrainingParts()

    def _functional_mode(self, codes: Codes) -> FunctionalMode:
        if not can_be_followed():
            return FunctionalMode(codes, self._function_begins, self._function_ends)
        return RecordedMode(
            codes,
            self._function_begins,
            self._function_ends,
            lambda: len(self.structure.layers) - 1,
        )

    def __enter__(self) -> StructureRecorder:
        codes = self.structure.codes
        with self._exit:
            for module in self._modules:
                self._watch_module(module)
            self._exit.callback(self._backward.stop)
            self._exit.callback(run_inside(self._engine))
            self._exit.callback(functions_as_layers(self._mode, codes))
            self._exit.callback(collectives_as_layers(self._mode, codes, self._sent.called))
            if is_distributed():
                self._exit.callback(communications.watch(self._sent.operation))
            # Twice: where an exception cuts the first short, as a lack of memory can, the second
            # switches it off.
            self._exit.callback(self._mode.leave)
            self._exit.enter_context(self._mode)
            self._exit.callback(parts.listen(self))
            self._exit.callback(self._training.watch())
            if codes.ranges_are_layers:
                self._exit.callback(self._ranges.watch())
            self._exit = self._exit.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._exit.close()
        if kind is None:
            self._backward.finish()
            self._expect_calls()

    def _expect_calls(self) -> None:
        codes = self.structure.codes
        if isinstance(self._mode, RecordedMode):
            of_rows = self.structure.layers.codes()
            codes.calls = expected_calls(self._mode.recorded(), of_rows, codes.plans)

    def new_run(self) -> None:
        """Count calls from zero, as the timed tracer does."""
        self._backward.new_run()
        self._training.new_run()
        self._mode.new_run()

    def within(self, calls: Columns) -> Structure:
        """What the run consisted of inside its model calls (MODEL_CALLS)."""
        return self.structure.within(calls, self._calls.abandoned)

    @contextmanager
    def _engine(self, roots: Sequence[torch.Tensor]) -> Iterator[Told]:
        given: list[Any] = []
        with self._backward.engine(roots), self._mode.back_on():
            yield given.append
        self._mode.engine_ended(*given)

    # ---- modules ----

    def _watch_module(self, module: nn.Module) -> None:
        name = self.names.setdefault(module, type(module).__name__)
        leaf = is_leaf(module)
        self.structure.modules.append(module_row(name, module, leaf))
        if leaf:
            self._watch_leaf(module, name)
        else:
            self._watch_container(module, name)

    def _watch_container(self, module: nn.Module, name: str) -> None:
        def before(_module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            self.structure.module_calls[name] += 1
            shapes, _ = describe_tensors((*args, *kwargs.values()))
            self._places.enter(ModuleCall(name, len(self.structure.layers), -1, shapes))

        def after(*_: Any) -> None:
            ended = self._places.leave(len(self.structure.layers))
            self.structure.calls_of_modules.append(ended)

        self._step_in(module, before, after)

    def _watch_leaf(self, module: nn.Module, name: str) -> None:
        code = self.structure.codes.of_module(module)

        def before(_module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            self._mode.switch.suspend()
            self.structure.module_calls[name] += 1
            own = own_parameters(module)
            called = self._descriptions.of_module(module, own, args, kwargs)
            parameters = Parameters.of(module, own)
            describe = partial(leaf_call_row, name, module, parameters, called)
            self._calls.begin(code, (code, called, parameters), describe)

        def after(_module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            self._calls.end((*args, *kwargs.values()), output)
            self._mode.switch.resume()

        self._step_in(module, before, after)

    def _step_in(
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

    # ---- functions outside leaf modules ----

    def _function_begins(
        self,
        code: int,
        function: Callable[..., Any] | CompiledFunction,
        args: Any,
        kwargs: Mapping[str, Any],
    ) -> None:
        place = self._place()
        kind = layer_type(function)
        is_backward = function in BACKWARD_ENTRIES or self._in_backward()

        def describe(source: str) -> LayerRow:
            called = function_called(function, args, kwargs)
            return LayerRow(
                f"{place.name}::{kind}",
                kind,
                "function",
                place.module,
                "backward" if is_backward else "forward",
                inputs=called,
                arguments=called.arguments,
                source=source,
            )

        outline = self._descriptions.key_of_function(function, args, kwargs)
        key = (code, place.module, place.name, is_backward, outline)
        self._calls.begin(code, None if outline is None else key, describe, place.number_call(kind))

    def _function_ends(self, _code: int, function: Any, args: Any, result: Any) -> None:
        # Some releases of torch show what compiled code returned, others do not: the graph of it is
        # found in the same way in all (`made_during.py`).
        self._calls.end(args, result, leads_to_nodes=not isinstance(function, CompiledFunction))

    def _place(self) -> Place:
        leaf = self._calls.open_leaf()
        if leaf is not None:
            module = self.structure.layers.described(leaf).module
            return self._places.in_leaf(leaf, module, self.structure.layers.name(leaf))
        return self._places.innermost()

    def _in_backward(self) -> bool:
        """Whether what is called here belongs to a backward pass: hooks do, what a checkpoint
        recomputes does not. That is recomputed with gradients on.
        """
        in_engine = self._backward.is_running and not self._places.within_module()
        return in_engine and not torch.is_grad_enabled()

    # ---- the user's ranges, and parts of compiled code ----

    def _range_begins(self, name: str, domain: str) -> None:
        self._mode.switch.suspend()
        code = self.structure.codes.of_range(name, domain)
        full = name if domain in (DEFAULT_DOMAIN, NO_DOMAIN) else f"{domain}:{name}"
        module = self._place().module
        self._calls.begin(code, (code, module), partial(_range_row, full, "range", module))

    def _range_ends(self, _name: str, _domain: str) -> None:
        self._calls.end((), None)
        self._mode.switch.resume()

    def _range_abandoned(self) -> None:
        self._calls.abandon()
        self._mode.switch.resume()

    def part_begins(self, part: Part) -> None:
        """See `Told`."""
        self._off_in_parts.begins(part)
        codes = self.structure.codes
        codes.parts.add(part.type)
        code = codes.of_range(part.name, parts.DOMAIN)
        describe = partial(_range_row, part.name, part.type, "")
        self._calls.begin(code, (code, part.name, part.type), describe)

    def part_ends(self, part: Part) -> None:  # noqa: ARG002 - it is the innermost
        """See `Told`."""
        self._calls.end((), None)
        self._off_in_parts.ends()


def _range_row(name: str, kind: str, module: str, source: str) -> LayerRow:
    return LayerRow(name, kind, "range", module, "forward", source=source)
