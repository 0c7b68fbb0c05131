"""Questions 1 and 2: what is left to gain, and what could run side by side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xsp.bounds.finding import Finding
from xsp.bounds.granularities import LIBRARY
from xsp.bounds.lower_bound import LowerBound


def potential(bound: LowerBound) -> Iterator[Finding]:
    """Question 1: the measured latency over the bound."""
    if bound.missing or not bound.latency_ms > bound.sequential_ms:
        return
    gain = bound.latency_ms - bound.sequential_ms
    yield Finding(
        1,
        "",
        gain,
        bound.bounds[LIBRARY].half_width_ms + np.nan_to_num(bound.latency_ci_ms),
        f"its layers at the library's best add up to {bound.sequential_ms:.3f} of "
        f"{bound.latency_ms:.3f} ms, a Benanza Ratio of {bound.ratio:.2f}",
        "the model as a whole: see what follows, and xsp bound for each layer",
    )


def parallel(bound: LowerBound) -> Iterator[Finding]:
    """Question 2: the sum over layers over the critical path."""
    if bound.missing or not bound.graph.dependencies_known:
        return
    gain = bound.sequential_ms - bound.parallel_ms
    path = set(bound.bounds[LIBRARY].path)
    beside = [each.name for each in bound.graph.layers if each.name not in path]
    if beside:
        yield Finding(
            2,
            beside[0],
            gain,
            bound.bounds[LIBRARY].half_width_ms,
            f"{len(beside)} layers are not on the critical path, such as {beside[0]}: an upper "
            "limit, since layers that run at the same time share the device",
            "run independent branches on CUDA streams of their own",
        )
