"""The GPUs that this process uses: which there are, waiting for them, and which one stands for a
program.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch

from xsp.machine.torch_internals import has_context, without_torch_functions


def in_use() -> tuple[int, ...]:
    """GPUs on which this process has a context. To wait for another would create one, which takes
    memory.
    """
    if not torch.cuda.is_initialized():
        return ()
    return tuple(device for device in range(torch.cuda.device_count()) if has_context(device))


def wait_for(devices: Iterable[int]) -> None:
    """Wait until these GPUs have done everything that was launched. An idle one costs some us."""
    for device in devices:
        torch.cuda.synchronize(device)


def most_used(tensors: Iterable[torch.Tensor]) -> int | None:
    """The GPU that has the most bytes of these tensors; without any, the current one or, if that is
    unused, the first in use; None where there is no GPU.
    """
    held: Counter[int] = Counter()
    with without_torch_functions():
        for tensor in tensors:
            if tensor.is_cuda:
                held[tensor.get_device()] += tensor.nbytes if tensor.layout is torch.strided else 1
    if held:
        return held.most_common(1)[0][0]
    if not torch.cuda.is_available():
        return None
    current, used = torch.cuda.current_device(), in_use()
    return current if current in used or not used else used[0]


def on(device: int | None) -> AbstractContextManager[object]:
    """A block in which this GPU is torch's current one, for what xsp itself does there."""
    return nullcontext() if device is None else torch.cuda.device(device)
