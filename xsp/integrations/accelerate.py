"""Accelerate: `with profile(accelerator, model, optimizer) as prof:` around a loop of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from torch import nn

from xsp.integrations.following import unwrapped
from xsp.profiler import BlockProfile
from xsp.profiler import profile as profiled


@contextmanager
def profile(
    accelerator: Accelerator, model: nn.Module, *optimizers: Any, **options: Any
) -> Iterator[BlockProfile]:
    """Profile the loop in the block along, as `xsp.profile` does; call `prof.step()` at the end of
    each iteration. Where `accelerator` accumulates gradients, a step ends with the iteration that
    applies them.

    Args:
        accelerator: that the others were prepared with.
        model: as `accelerator.prepare` returns it.
        *optimizers: the same.
        **options: those of `xsp.profile`.

    """
    plain = [unwrapped(each) for each in optimizers]
    with profiled(model, optimizer=plain, **options) as prof:
        step = prof.step

        def of_accelerator() -> None:
            if accelerator.sync_gradients:
                step()

        vars(prof)["step"] = of_accelerator
        try:
            yield prof
        finally:
            del vars(prof)["step"]
