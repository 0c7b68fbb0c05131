"""What parts of a training step replace in torch while it is traced."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from xsp.machine.torch_internals import kept_by_decorator


def training_functions() -> list[Any]:
    """The functions that are there now, and the numbers of hooks of all optimizers."""
    clipping = torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_
    kept = [kept_by_decorator(each) for each in clipping]
    return [
        vars(torch.optim.Optimizer)["zero_grad"],
        vars(torch.nn.Module)["zero_grad"],
        vars(torch.optim.lr_scheduler.LRScheduler)["step"],
        vars(torch.profiler.record_function)["__exit__"],
        *(vars(torch.amp.GradScaler)[name] for name in ("scale", "unscale_", "step", "update")),
        *(place.value for place in kept if place is not None),
        len(_global_optimizer_pre_hooks),
        len(_global_optimizer_post_hooks),
    ]
