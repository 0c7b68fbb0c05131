"""What distributed training adds to a step: collectives that Python calls, and the gradient buckets
of DistributedDataParallel, which its C++ reducer fills and reduces while autograd runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import Node

from xsp.levels.layer.autograd import AFTER_CODE, BUCKETS_CODE
from xsp.levels.layer.function_mode import Codes, FunctionalMode
from xsp.machine.torch_internals import after_backward

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


def collectives_as_layers(mode: FunctionalMode, codes: Codes) -> Callable[[], None]:
    """Calls of `torch.distributed`'s collectives are layers until what is returned is called."""
    undo = ExitStack()
    if not is_distributed():
        return undo.close
    for name in COLLECTIVES:
        real = getattr(torch.distributed, name, None)
        if real is not None:
            undo.callback(setattr, torch.distributed, name, real)
            setattr(torch.distributed, name, _as_layer(real, mode, codes))
    return undo.close


def _as_layer(real: Callable[..., Any], mode: FunctionalMode, codes: Codes) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        # Also inside a leaf module, where the mode is off: FSDP gathers a layer's parameters there.
        code = None if mode.switch.muted() else codes.of_function(real)
        if code is None:
            return real(*args, **kwargs)
        mode.switch.mute()
        try:
            return mode.stamped(code, real, args, kwargs)
        finally:
            mode.switch.unmute()

    return called


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
