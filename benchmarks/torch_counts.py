"""What torch.profiler counts in one run, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def counted_by_torch(run: Callable[[], Any]) -> int:
    """Kernels, copies and sets of one run as torch.profiler counts them."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profiler:
        run()
        torch.cuda.synchronize()
    events: list[Any] = list(profiler.events() or [])
    on_device = [event for event in events if event.device_type.name == "CUDA"]
    return len([event for event in on_device if not event.is_user_annotation])
