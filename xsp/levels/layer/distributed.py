"""What distributed training adds to a step: collectives that Python calls, and the gradient buckets
of DistributedDataParallel, which its C++ reducer fills and reduces while autograd runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import update_wrapper
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node

from xsp.analysis.work.collectives import FUNCTIONAL
from xsp.levels.layer.autograd import AFTER_CODE, BUCKETS_CODE
from xsp.levels.layer.communications import WAIT
from xsp.levels.layer.followed_calls import Functions
from xsp.levels.layer.function_mode import Codes
from xsp.machine.torch_internals import (
    FUNCTIONAL_COLLECTIVES,
    PIPELINE_SCHEDULES,
    Place,
    after_backward,
)

Told = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any], Any], None]
"""Called with a collective or a wait (`WAIT`, `wait`), what it was given, and what it gave."""

COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_gather_single",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "batch_isend_irecv",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "irecv",
    "isend",
    "recv",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_tensor",
    "scatter",
    "send",
)

BUCKETS = "(gradient buckets)"
AFTER = "(gradient synchronization)"


def is_distributed() -> bool:
    """Whether this process takes part in distributed work."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def collectives_as_layers(
    mode: Functions, codes: Codes, told: Told | None = None
) -> Callable[[], None]:
    """Calls of collectives are layers until what is returned is called: those of
    `torch.distributed`, the functional ones that DTensor makes, the sends and receives of a
    pipeline, and the waits for what does not block. `told` is told what each was given and gave,
    while its layer is open.
    """
    undo = ExitStack()
    if not is_distributed():
        return undo.close
    layers = _Layers(mode, codes, told)
    with undo:
        for owner, names in _PLACES:
            for name in names:
                place = Place(importlib.import_module(owner), name)
                if place.exists:
                    undo.callback(place.replace(layers.around(place.value)))
        work = Place(torch.distributed.Work, "wait")
        undo.callback(work.replace(layers.around(wait, vars(work.owner)["wait"])))
        for name in ("__new__", "__init__"):
            undo.callback(_with_real_operations(Place(torch.distributed.P2POp, name)))
        return undo.pop_all().close


_PLACES = (
    ("torch.distributed", COLLECTIVES),
    (FUNCTIONAL_COLLECTIVES, (*FUNCTIONAL, WAIT)),
    (PIPELINE_SCHEDULES, ("_batch_p2p",)),
)


class _Layers:
    """Makes layers of collectives."""

    def __init__(self, mode: Functions, codes: Codes, told: Told | None) -> None:
        self._mode, self._codes, self._told = mode, codes, told

    def around(
        self, real: Callable[..., Any], called: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """What to call instead of it. `called` is what to call where that is not `real` itself."""
        untold = called or real
        told = self._telling(real, untold)

        def layer(*args: Any, **kwargs: Any) -> Any:
            # Also inside a leaf module, where the mode is off: FSDP gathers a layer's parameters
            # there. What a collective itself calls is no layer.
            code = None if self._mode.switch.muted() else self._codes.of_function(real)
            if code is None:
                return untold(*args, **kwargs)
            return self._stamped(code, real, told, args, kwargs)

        return _Operation(real, layer) if real.__name__ in _COMPARED else layer

    def _stamped(
        self, code: int, real: Callable[..., Any], call: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        mode = self._mode
        mode.switch.mute()
        try:
            return mode.stamped(code, real, args, kwargs, call)
        finally:
            mode.switch.unmute()

    def _telling(self, real: Callable[..., Any], called: Callable[..., Any]) -> Callable[..., Any]:
        told = self._told
        if told is None:
            return called

        def call(*args: Any, **kwargs: Any) -> Any:
            result = called(*args, **kwargs)
            told(real, args, kwargs, result)
            return result

        return call


def wait(work: Any, *args: Any, **kwargs: Any) -> Any:
    """Stands for `Work.wait`, which has no hash, where functions have codes."""
    return work.wait(*args, **kwargs)


_COMPARED = ("isend", "irecv")
"""Functions that are passed as values too, in P2POp, and compared."""


class _Operation:
    """In the place of a function that PyTorch compares with what a program passes: equal to it."""

    def __init__(self, real: Callable[..., Any], layer: Callable[..., Any]) -> None:
        update_wrapper(self, real)
        self.real, self._layer = real, layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._layer(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return other is self or other is self.real

    def __hash__(self) -> int:
        return hash(self.real)


def _with_real_operations(place: Place) -> Callable[[], None]:
    """P2POp keeps the functions themselves: PyTorch tells them by identity, and what a program
    makes while it is traced it may use when it no longer is.
    """
    real = place.value

    def made(first: Any, op: Any, *args: Any, **kwargs: Any) -> Any:
        return real(first, op.real if isinstance(op, _Operation) else op, *args, **kwargs)

    return place.replace(staticmethod(made) if place.name == "__new__" else made)


def bucketed_parameters(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Parameters whose gradients DistributedDataParallel puts into buckets."""
    if not is_distributed():
        return []
    parallel = [each for each in modules if isinstance(each, nn.parallel.DistributedDataParallel)]
    every = (parameter for module in parallel for parameter in module.parameters())
    return [parameter for parameter in dict.fromkeys(every) if parameter.requires_grad]


class BucketStamps:
    """Stamps before each gradient accumulator, from where the reducer fills and reduces buckets,
    and when the last node of a backward pass is done, from where it waits for them.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], stamp: Callable[[int], None]) -> None:
        self._stamp = stamp
        self._nodes: list[Node] = []
        self._handles: list[Any] = []
        self._told = False
        for node in _accumulators(parameters):
            # The reducer holds them too: they last from run to run.
            self._nodes.append(node)
            self._handles.append(node.register_prehook(self._bucket))

    def engine_begins(self) -> None:
        """A backward pass begins."""
        self._told = False

    def close(self) -> None:
        """Take the hooks off the accumulators."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._nodes.clear()

    def _bucket(self, _gradients: Any) -> None:
        self._stamp(2 * BUCKETS_CODE)
        if not self._told:
            self._told = True
            # Before the reducer's own, which waits: it asks for that at the last accumulator.
            after_backward(lambda: self._stamp(2 * AFTER_CODE))


def _accumulators(parameters: Iterable[nn.Parameter]) -> Iterator[Node]:
    with torch.enable_grad():
        for parameter in parameters:
            yield torch.autograd.graph.get_gradient_edge(parameter).node
